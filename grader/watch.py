"""`make watch`: grades again on every save, and shows the first check that fails."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from grader.catalogue import Exercise
from grader.report import Report, Result, Verdict
from grader.runner import Grader
from grader.workspace import take_in

LOOK_SECONDS = 0.1


def saves(exercise: Exercise) -> Iterator[None]:
    """Once at the start, and whenever one of the files is another than before."""
    seen: object = None
    while True:
        now = [_stamp(exercise.folder / file.path) for file in exercise.files]
        if now != seen:
            seen = now
            yield
        time.sleep(LOOK_SECONDS)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None  # some editors take a file away before they put the new one there
    return about.st_mtime_ns, about.st_size, about.st_ino


class Lines:
    """Of a check that has several tests, one line: when it has failed, or when all have passed."""

    def __init__(self, tell: Callable[[Result], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._last: Result | None = None

    def hear(self, result: Result) -> None:
        if self._last and self._last.check != result.check:
            self.end()
        self._last = result

    def end(self) -> None:
        """One that was asked for alone before all are asked is told once."""
        if self._last and self._last.check not in self._told:
            self._told.add(self._last.check)
            self._tell(self._last)


def grade_again(
    grader: Grader, exercise: Exercise, failing: str | None, tell: Callable[[Result], None]
) -> Report:
    """The check that failed last comes first: that is what somebody has just worked on."""
    if failing:
        report = _grade(grader, exercise, [failing], tell)
        if report.result_of(failing) is not Verdict.PASSED:
            return report
    return _grade(grader, exercise, [], tell)


def _grade(
    grader: Grader, exercise: Exercise, only: list[str], tell: Callable[[Result], None]
) -> Report:
    intake = take_in(exercise, exercise.folder)
    return grader.grade(exercise, intake, seed=1, only=only, first_failure_only=True, tell=tell)
