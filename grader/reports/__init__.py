"""A class's results as files: pages, a gradebook, JSON, JUnit, Gradescope's form, a summary.

Whatever came from a submission, its name included, is data here, and escaped as each form needs it.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from grader.catalogue import Exercise, GradingError
from grader.reports import forms, pages
from grader.results import ClassResults

MADE_HERE = ("students", "gradescope", "records")
"""Folders that are made anew each time, so that nobody stays in them who is gone."""


def write(out: Path, results: ClassResults, exercises: Mapping[str, Exercise]) -> None:
    """Raises GradingError when `out` cannot be written to."""
    try:
        for name in MADE_HERE:
            shutil.rmtree(out / name, ignore_errors=True)
        for path, data in _files(results, exercises).items():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.new")
            fresh.write_bytes(data)
            fresh.replace(target)
    except OSError as exc:
        raise GradingError(f"{out} cannot be written to: {exc.strerror}.") from exc


def _files(results: ClassResults, exercises: Mapping[str, Exercise]) -> dict[str, bytes]:
    files = {
        "index.html": pages.class_page(results, exercises).encode(),
        "gradebook.csv": forms.gradebook(results).encode(),
        "grades.json": forms.as_json(results),
        "junit.xml": forms.junit(results),
        "summary.md": forms.summary(results).encode(),
    }
    for student in results.students:
        files[f"students/{student.page}.html"] = pages.student_page(
            results, student, exercises
        ).encode()
        files[f"gradescope/{student.page}.json"] = forms.gradescope(student)
        for result in student.graded:
            for grade, end in ((result.grade, ""), (result.private, ".private")):
                if grade:
                    name = f"records/{student.page}/{result.exercise}{end}.json"
                    files[name] = grade.record_bytes()
    return files
