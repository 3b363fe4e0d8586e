"""The forms that programs read. Each escapes in its own way."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from grader.grade import CheckGrade, Grade
from grader.render import (
    AFTER_A_CRASH,
    NAMES,
    by_cause,
    crashed,
    last_line,
    printable,
)
from grader.report import Verdict
from grader.results import ClassResults, ExerciseResult, StudentResult
from grader.words import counted

EVIDENCE = {"exchanges", "asked", "printed"}
STATES = {
    "graded": "graded",
    "could_not_tell": "could not tell",
    "not_graded": "not graded",
    "unreadable": "handed in, could not be read",
    "not_handed_in": "not handed in",
}
FORMULA = re.compile(r"[=+\-@\t\r\n|%]|\\u[0-9a-f]{4}")
"""How a spreadsheet's formula may begin, also behind a character that is shown as an escape."""


def as_json(results: ClassResults) -> bytes:
    """Without what was said over the wire, which the pages show."""
    checks = {"checks": {"__all__": EVIDENCE}}
    grades = {"grade": checks, "private": checks}
    left_out = {"students": {"__all__": {"exercises": {"__all__": grades}}}}
    return _json(results.model_dump(mode="json", exclude=left_out))


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=1).encode() + b"\n"


# --- the gradebook


def gradebook(results: ClassResults) -> str:
    """One row for each student; what nobody handed in is empty, and counts as nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shorts = [result.short for result in results.students[0].exercises] if results.students else []
    named = [each.criterion for each in results.students[0].criteria] if results.students else []
    writer.writerow(["student", "total", "before_late", "late_percent", *shorts, *named, "remarks"])
    for student in results.students:
        writer.writerow(
            [
                cell(student.name),
                student.total,
                student.before_late,
                student.late.percent if student.late else "",
                *(result.points if result.grade else "" for result in student.exercises),
                *(each.percent for each in student.criteria),
                cell("; ".join(remarks(student))),
            ]
        )
    return out.getvalue()


def cell(text: str) -> str:
    """As text, also to a spreadsheet that takes some of it for a formula."""
    text = printable(text).replace("\n", " ")
    return f"'{text}" if FORMULA.match(text.lstrip()) else text


def remarks(student: StudentResult) -> Iterator[str]:
    """What a person has to look at: the same in every form."""
    if student.problem:
        yield student.trouble
    yield from student.notes
    for result in student.exercises:
        if not student.problem and result.state in ("not_graded", "could_not_tell"):
            why = f": {result.why}" if result.why else ""
            yield f"{result.short} {STATES[result.state]}{why}"
        yield from (f"{result.short}: {line}" for line in result.told)


# --- JUnit


def junit(results: ClassResults) -> bytes:
    """A suite for each answer, a case for each check."""
    suites = ET.Element("testsuites", name=printable(results.title))
    for student in results.students:
        if student.problem:
            case = _case(suites, student, "submission", "can be read", errors=1)
            ET.SubElement(case, "error", message=printable(student.trouble))
        for result in student.exercises:
            _suite(suites, student, result)
    ET.indent(suites)
    out = io.BytesIO()
    ET.ElementTree(suites).write(out, encoding="utf-8", xml_declaration=True)
    return out.getvalue() + b"\n"


def _suite(suites: ET.Element, student: StudentResult, result: ExerciseResult) -> None:
    if result.state == "not_handed_in" or student.problem:
        case = _case(suites, student, result.short, "is handed in", skipped=1)
        ET.SubElement(case, "skipped", message=STATES[result.state])
    elif result.grade is None:
        case = _case(suites, student, result.short, "can be graded", errors=1)
        ET.SubElement(case, "error", message=printable(result.why))
    else:
        suite = _checks(suites, student, result.short, result.grade)
        if result.told:
            ET.SubElement(suite, "system-out").text = printable("\n".join(result.told))
        if result.private:
            _checks(suites, student, f"{result.short} private", result.private)


def _case(
    suites: ET.Element, student: StudentResult, about: str, name: str, **counts: int
) -> ET.Element:
    suite = ET.SubElement(suites, "testsuite", _named(student, about), tests="1")
    for kind in ("failures", "errors", "skipped"):
        suite.set(kind, str(counts.get(kind, 0)))
    return ET.SubElement(suite, "testcase", classname=_named(student, about)["name"], name=name)


def _named(student: StudentResult, about: str) -> dict[str, str]:
    return {"name": f"{printable(student.name)} {about}"}


def _checks(suites: ET.Element, student: StudentResult, about: str, grade: Grade) -> ET.Element:
    undecided = [check for check in grade.checks if check.verdict is Verdict.COULD_NOT_TELL]
    suite = ET.SubElement(suites, "testsuite", _named(student, about))
    suite.set("tests", str(len(grade.checks)))
    suite.set("failures", str(len(grade.failed) - len(undecided)))
    suite.set("errors", str(len(undecided)))
    suite.set("skipped", "0")
    for check in grade.checks:
        case = ET.SubElement(suite, "testcase", classname=suite.get("name", ""), name=check.id)
        if check.verdict is not Verdict.PASSED:
            kind = "error" if check in undecided else "failure"
            said = ET.SubElement(case, kind, type=check.verdict.value)
            said.set("message", printable(check.said))
    return suite


# --- Gradescope


def gradescope(student: StudentResult) -> bytes:
    """What an autograder puts into results.json."""
    tests = [test for result in student.graded for test in _tests(result)]
    told = list(remarks(student))
    for result in student.graded:
        told += [f"{result.short}: {line}" for line in _crashes(result)]
    return _json(
        {
            "score": student.total,
            "output": printable("\n".join(told)),
            "output_format": "text",
            "visibility": "visible",
            "stdout_visibility": "hidden",
            "tests": tests,
        }
    )


def _crashes(result: ExerciseResult) -> Iterator[str]:
    """Each once, with its last line; the tests say which of them it stops."""
    checks = result.grade.checks if result.grade else ()
    for first, *_ in by_cause(check for check in checks if crashed(check)):
        yield f"{last_line(first.printed)} {AFTER_A_CRASH}".lstrip()


def _tests(result: ExerciseResult) -> Iterator[dict[str, Any]]:
    """Of a private check, what came of it, and not what it looked at."""
    if result.grade:
        yield from (_test(result, check) for check in result.grade.checks)
    if result.private:
        for check in result.private.checks:
            yield {**_test(result, check), "output": "", "visibility": "after_published"}


def _test(result: ExerciseResult, check: CheckGrade) -> dict[str, Any]:
    words = filter(None, [check.said, f"Your code says {check.todo}" if check.todo else ""])
    return {
        "name": f"{result.short} {check.id}: {NAMES[check.verdict]}",
        "name_format": "text",
        "score": check.earned,
        "max_score": check.points,
        "status": "passed" if check.verdict is Verdict.PASSED else "failed",
        "output": printable("\n".join(words)),
        "output_format": "text",
    }


# --- Markdown


def summary(results: ClassResults) -> str:
    """For the page that CI shows after a run."""
    shorts = [result.short for result in results.students[0].exercises] if results.students else []
    lines = [f"# {markdown(results.title)}", ""]
    if not results.official:
        lines += [f"**Not official**: graded at isolation tier {results.tier}.", ""]
    lines += [_row(["student", "total", *shorts, "remarks"])]
    lines += [_row(["---", "---:", *("---:" for _ in shorts), "---"])]
    for student in results.students:
        points = [_points(result) for result in student.exercises]
        told = markdown("; ".join(remarks(student)))
        lines.append(_row([markdown(student.name), f"{student.total:g}", *points, told]))
    graded = sum(len(student.graded) for student in results.students)
    students = counted(len(results.students), "student")
    lines += ["", f"{students}, {counted(graded, 'answer')} graded."]
    lines += [f"Seed {results.seed}. Isolation tier {results.tier}."]
    return "\n".join(lines) + "\n"


def _points(result: ExerciseResult) -> str:
    return f"{result.points:g}" if result.grade else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(text: str) -> str:
    """As it reads, whatever of it Markdown or HTML would take for its own."""
    flat = " ".join(printable(text).split())
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~@:])", r"\\\1", html.escape(flat, quote=False))
