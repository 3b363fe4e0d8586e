"""What came of a submission: one verdict for each declared check, and the points they earn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from grader.catalogue import Exercise


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    OVER_LIMIT = "over_limit"
    TAMPERED = "tampered"
    COULD_NOT_TELL = "could_not_tell"
    """The judge's fault or the machine's; the only one that is worth a second try."""


GRAVEST_FIRST = (
    Verdict.TAMPERED,
    Verdict.OVER_LIMIT,
    Verdict.CRASHED,
    Verdict.TIMED_OUT,
    Verdict.FAILED,
    Verdict.COULD_NOT_TELL,
    Verdict.PASSED,
)


@dataclass(frozen=True)
class Result:
    """What one test of a check said; the plugin sends these."""

    check: str
    test: str
    verdict: Verdict
    seconds: float = 0.0
    said: str = ""
    """The suite's own words on what was wrong."""
    todo: str = ""
    """The TODO that the submission itself named."""
    exchanges: Sequence[dict[str, Any]] = ()
    asked: Sequence[str] = ()
    """What the model saw."""
    printed: str = ""


@dataclass(frozen=True)
class CheckReport:
    id: str
    verdict: Verdict
    points: int
    earned: int
    result: Result | None
    """The one that decided: the gravest, and of those the first."""

    @property
    def todo(self) -> str:
        return self.result.todo if self.result else ""

    @property
    def printed(self) -> str:
        return self.result.printed if self.result else ""


@dataclass(frozen=True)
class Report:
    exercise: Exercise
    seed: int
    tier: int
    parts: Sequence[str]
    checks: Sequence[CheckReport]
    notes: Sequence[str] = ()
    """What else has to be said, such as a file that is missing."""
    seconds: float = 0.0
    open_book: int | None = None
    """Of a lab: how many of a hundred lines of one's own are also in the course's own files."""
    partial: bool = False
    """Stopped before every check had its turn."""

    @property
    def earned(self) -> int:
        return sum(check.earned for check in self.checks)

    def result_of(self, id_: str) -> Verdict:
        return next(check.verdict for check in self.checks if check.id == id_)

    @property
    def failed(self) -> list[str]:
        """The checks that did not pass, whatever the reason."""
        return [check.id for check in self.checks if check.verdict is not Verdict.PASSED]

    @property
    def undecided(self) -> bool:
        return any(check.verdict is Verdict.COULD_NOT_TELL for check in self.checks)

    @property
    def complete(self) -> bool:
        return self.earned == 100 and not self.failed

    @property
    def misconception(self) -> str | None:
        known = self.exercise.misconception(self.failed)
        return known.id if known and not self.undecided else None

    def record(self) -> dict[str, Any]:
        """What is the same whenever the same submission meets the same suite under one seed."""
        return {
            "exercise": self.exercise.id,
            "seed": self.seed,
            "earned": self.earned,
            "checks": [
                {"id": check.id, "verdict": check.verdict.value, "earned": check.earned}
                for check in self.checks
            ],
            "misconception": self.misconception,
        }

    def record_bytes(self) -> bytes:
        return json.dumps(self.record(), indent=1, sort_keys=True).encode() + b"\n"


def judge_checks(
    exercise: Exercise, collected: dict[str, int], results: Sequence[Result]
) -> list[CheckReport]:
    """Every declared check gets one verdict. What nobody decided, nobody passed."""
    return [
        _judge(check.id, check.points, collected.get(check.id, 0), results)
        for check in exercise.checks
    ]


def _judge(id_: str, points: int, tests: int, results: Sequence[Result]) -> CheckReport:
    mine = sorted(
        (result for result in results if result.check == id_),
        key=lambda result: GRAVEST_FIRST.index(result.verdict),
    )
    verdict = mine[0].verdict if mine else Verdict.COULD_NOT_TELL
    if verdict is Verdict.PASSED and not 0 < tests == len(mine):
        verdict = Verdict.COULD_NOT_TELL
    earned = points if verdict is Verdict.PASSED else 0
    return CheckReport(id_, verdict, points, earned, mine[0] if mine else None)


def all_alike(exercise: Exercise, verdict: Verdict, why: str) -> list[CheckReport]:
    """For submissions that are not even started."""
    return [
        CheckReport(check.id, verdict, check.points, 0, Result(check.id, "", verdict, said=why))
        for check in exercise.checks
    ]
