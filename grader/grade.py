"""What came of one submission to one exercise, as it is kept on disk and sent between machines."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from grader.catalogue import Exercise, Strict
from grader.manifest import digest, sha256, tree
from grader.report import CheckReport, Report, Verdict
from grader.workspace import Intake

KEPT_EXCHANGES = 2
KEPT_TEXT = 2000
JUDGES_ARE = (
    "grader/judge", "grader/sandbox", "grader/catalogue.py", "grader/report.py", "grader/runner.py",
    "grader/workspace.py", "exercises/conftest.py", "requirements/all.txt",
)  # fmt: skip
"""With the course itself: what a verdict depends on, beside the exercise and the submission."""


class CheckGrade(Strict):
    id: str
    verdict: Verdict
    points: int
    earned: int
    test: str = ""
    said: str = ""
    todo: str = ""
    exchanges: tuple[dict[str, Any], ...] = ()
    asked: tuple[str, ...] = ()
    printed: str = ""


class Grade(Strict):
    """Everything here came out of a sandbox or a judge: it is data, wherever it is shown."""

    exercise: str
    suite: str
    """The hash of everything that the verdicts depend on, beside the submission and the seed."""

    seed: int
    files: dict[str, str]
    """What was graded: SHA-256 of each."""

    checks: tuple[CheckGrade, ...]
    misconception: str | None
    notes: tuple[str, ...] = ()
    open_book: int | None = None
    tier: int = 0
    parts: tuple[str, ...] = ()
    seconds: float = Field(default=0, ge=0)

    @property
    def earned(self) -> int:
        return sum(check.earned for check in self.checks)

    @property
    def undecided(self) -> bool:
        return any(check.verdict is Verdict.COULD_NOT_TELL for check in self.checks)

    @property
    def failed(self) -> list[str]:
        return [check.id for check in self.checks if check.verdict is not Verdict.PASSED]

    @property
    def complete(self) -> bool:
        return not self.failed and bool(self.checks)

    def record(self) -> dict[str, Any]:
        """What is the same whenever the same submission meets the same suite under one seed."""
        return {
            "exercise": self.exercise,
            "suite": self.suite,
            "seed": self.seed,
            "files": self.files,
            "earned": self.earned,
            "checks": [
                {"id": check.id, "verdict": check.verdict.value, "earned": check.earned}
                for check in self.checks
            ],
            "misconception": self.misconception,
        }

    def record_bytes(self) -> bytes:
        return json.dumps(self.record(), indent=1, sort_keys=True).encode() + b"\n"


def grade_of(report: Report, suite: str, intake: Intake) -> Grade:
    return Grade(
        exercise=report.exercise.id,
        suite=suite,
        seed=report.seed,
        files={path: sha256(data) for path, data in sorted(intake.files.items())},
        checks=tuple(map(_check, report.checks)),
        misconception=report.misconception,
        notes=tuple(map(_short, report.notes)),
        open_book=report.open_book,
        tier=report.tier,
        parts=tuple(report.parts),
        seconds=round(report.seconds, 1),
    )


def _check(check: CheckReport) -> CheckGrade:
    found = CheckGrade(id=check.id, verdict=check.verdict, points=check.points, earned=check.earned)
    result = check.result
    if result is None or check.verdict is Verdict.PASSED:
        return found
    return found.model_copy(
        update={
            "test": _short(result.test),
            "said": _short(result.said),
            "todo": _short(result.todo),
            "exchanges": tuple(map(_exchange, result.exchanges[-KEPT_EXCHANGES:])),
            "asked": tuple(map(_short, result.asked[-KEPT_EXCHANGES:])),
            "printed": _text(_last_lines(result.printed)),
        }
    )


def _exchange(exchange: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _short(value) if isinstance(value, str) else value for name, value in exchange.items()
    }


def _short(text: str) -> str:
    return _text(text[:KEPT_TEXT])


def _last_lines(text: str) -> str:
    """Whole ones, unless the last is longer than what is kept."""
    kept = text[-KEPT_TEXT:]
    return kept if kept == text else kept.partition("\n")[2] or kept


def _text(text: str) -> str:
    """Half characters cannot be written down."""
    return text.encode(errors="backslashreplace").decode()


def suite_digest(exercise: Exercise) -> str:
    """Another one means that the same answer might be judged otherwise."""
    root = exercise.root
    answers = {exercise.folder / file.path for file in exercise.files}
    answers |= {root / file.reference for file in exercise.files if file.reference}
    answers |= {root / path for path in exercise.leave_out}
    parts: list[tuple[str, bytes]] = []
    for path in ("shared", exercise.track, *exercise.include, *JUDGES_ARE, exercise.home):
        parts += _below(root / path, answers)
    for file in (root / "exercises" / exercise.track / "conftest.py", *exercise.suite):
        parts += _below(file, answers)
    if exercise.private:
        parts += _below(exercise.private, answers)
    return digest(iter(parts))


def _below(path: Path, left_out: Collection[Path]) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        yield from ((f"{path.name}/{name}", data) for name, data in tree(path, left_out))
    elif path.is_file() and path not in left_out:
        yield path.name, path.read_bytes()
