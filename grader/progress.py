"""How far a batch has come: a bar on a terminal, a line for each submission elsewhere."""

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from grader.batch import Done
from grader.render import printable

MAX_NAME = 40


def progress(total: int) -> "Bar | Lines":
    """Its `tell` takes a name for people, which may hold whatever a file name may."""
    return Bar(total) if sys.stdout.isatty() else Lines(total)


def outcome(done: Done) -> str:
    if done.grade is None:
        return f"not graded: {done.problem}"
    if done.grade.undecided:
        return "could not tell"
    return f"{done.grade.earned} of 100"


def _about(done: Done) -> str:
    exercise = done.job.exercise
    return f"{exercise.short} private" if exercise.private else exercise.short


def _line(whose: str, done: Done) -> str:
    name = printable(whose)[:MAX_NAME].replace("\n", " ")
    seconds = f"{done.grade.seconds:.1f} s" if done.grade else ""
    words = printable(outcome(done).splitlines()[0])
    return f"{name}  {_about(done)}  {words}  {seconds}".rstrip()


class Lines:
    """For logs and pipes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._kept = 0
        self._keys: set[str] = set()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell_kept()

    def tell(self, whose: str, done: Done) -> None:
        if done.kept:
            self._kept += 1
            return
        self._tell_kept()
        self._keys.add(done.job.key)
        width = len(str(self._total))
        counted = f"[{len(self._keys):>{width}}/{self._total}]"
        print(f"{counted} {_line(whose, done)}{self._left()}", flush=True)

    def _tell_kept(self) -> None:
        if self._kept:
            one = self._kept == 1
            verbs = ("was", "is as it was") if one else ("were", "are as they were")
            print(f"{self._kept} of {self._total} {verbs[0]} graded before, and {verbs[1]}.")
            self._total -= self._kept
            self._kept = 0

    def _left(self) -> str:
        count = len(self._keys)
        if not 0 < count < self._total:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total - count) / count
        return f"  (about {seconds / 60:.0f} min left)" if seconds > 90 else ""


class Bar:
    """What could not be graded stays on the screen above it."""

    def __init__(self, total: int) -> None:
        self._console = Console(highlight=False, markup=False)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=self._console,
        )
        self._total = total
        self._keys: set[str] = set()
        self._stack = ExitStack()
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._progress)
        self._task = self._progress.add_task("", total=self._total, last="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, value, traceback)

    def tell(self, whose: str, done: Done) -> None:
        self._keys.add(done.job.key)
        line = _line(whose, done)
        if done.grade is None or done.grade.undecided:
            self._console.print(Text(line))
        self._progress.update(self._task, completed=len(self._keys), last=line)
