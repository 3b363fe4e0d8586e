"""Nothing that a student or a programme reads of a grade says where things lie on this machine."""

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from grader.catalogue import ROOT, find
from grader.grade import grade_of, suite_digest
from grader.places import without_places
from grader.report import Result, Verdict
from grader.runner import MAX_PRINTED, Grader, cleaned
from grader.workspace import Intake, solution_files

EXERCISE = find("medium/ex02")
WORK = Path("/tmp/grader-x/work-y/course")  # noqa: S108 - it is only a name


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f'File "{ROOT}/shared/web.py", line 3', 'File "shared/web.py", line 3'),
        (
            f"{sysconfig.get_paths()['purelib']}/uvicorn/server.py",
            "site-packages/uvicorn/server.py",
        ),
        (f"{WORK}/exercises/a.py and {WORK}.", "exercises/a.py and .."),
        (f"{WORK.parents[1]}/g-1/model", "g-1/model"),
        ('File "/course/exercises/a.py"', 'File "exercises/a.py"'),
        (f"{Path.home()}/notes", "~/notes"),
        ("GET /api/v1/course/5 and /usr/bin/nginx", "GET /api/v1/course/5 and /usr/bin/nginx"),
        (f"{ROOT}2/a", f"{ROOT}2/a"),
    ],
)
def test_what_is_told(text: str, clean: str) -> None:
    """Files of the submission and the course by their own names, and nothing else changed."""
    assert without_places(WORK, WORK.parents[1])({"said": [text]}) == {"said": [clean]}


def test_a_path_that_was_cut() -> None:
    """What is printed is kept from its end, which may begin in the middle of a path."""
    rest = "x" * (MAX_PRINTED - 30)
    printed = f'er/course/a.py", line 1\n{rest}'.ljust(MAX_PRINTED, "\n")
    result = cleaned(Result("a", "b", Verdict.CRASHED, printed=printed))
    assert result.printed.startswith("xxx")


def test_a_crash_names_no_place(grader: Grader) -> None:
    """A service that ends at import, as it is kept, sent and put into every report."""
    wrong = b"import os\nraise RuntimeError(os.getcwd(), os.__file__)\n"
    intake = Intake({**solution_files(EXERCISE), "rate_limit.py": wrong})
    report = grader.grade(EXERCISE, intake, seed=1, lanes=2)
    kept = grade_of(report, suite_digest(EXERCISE), intake).model_dump_json()
    assert f"{EXERCISE.home}/rate_limit.py" in kept
    assert "RuntimeError" in kept
    ours = {str(ROOT), sys.prefix, os.__file__, str(grader.warm.folder), '"/course/'}
    assert [each for each in ours if each in kept] == []
