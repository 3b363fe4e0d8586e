"""What holds the exercises has to notice when one of them lets go."""

import time
from dataclasses import replace

import pytest

from grader.catalogue import GradingError, find
from grader.judge import only_until
from grader.mutants import fate, mutants
from grader.report import Report, Result, Verdict, judge_checks
from grader.runner import Heard, opened
from grader.sandbox.client import SandboxProblem
from grader.verify import (
    Case,
    Change,
    KnownWrong,
    Matrix,
    Outcome,
    cases,
    faults,
    load_matrix,
    mixed,
    problems,
    run,
    signatures,
)
from grader.workspace import Intake

EXERCISE = find("medium/ex02")
MATRIX = load_matrix(EXERCISE)
ALL = frozenset(check.id for check in EXERCISE.checks)


def report(**verdicts: str) -> Report:
    """Everything passed, but for what is given."""
    results = [
        Result(check.id, "t", Verdict(verdicts.get(check.id, "passed")), said="words")
        for check in EXERCISE.checks
    ]
    counts = {check.id: 1 for check in EXERCISE.checks}
    return Report(EXERCISE, 1, 1, [], judge_checks(EXERCISE, counts, results))


def case(earned: int, fails: frozenset[str], misconception: str | None = None) -> Case:
    return Case(EXERCISE, "some answer", Intake(), earned, fails, misconception)


def test_as_declared_is_no_problem() -> None:
    """A solution at 100, a known-wrong at its score, with its checks and its misconception."""
    assert list(problems(case(100, frozenset()), report())) == []
    wrong = case(90, frozenset({"at_once"}), "await_between_check_and_count")
    assert list(problems(wrong, report(at_once="failed"))) == []


@pytest.mark.parametrize(
    ("planned", "verdicts", "sentence"),
    [
        (case(100, frozenset()), {"at_once": "failed"}, "earned 90, not 100"),
        (case(100, frozenset()), {"at_once": "failed"}, "at_once should pass"),
        (case(90, frozenset({"at_once"})), {"at_once": "failed"}, "shows the misconception"),
        (case(90, frozenset({"at_once"})), {}, "at_once should fail, and passed"),
        (case(90, frozenset({"at_once"})), {"streams_count": "failed"}, "at_once should fail"),
    ],
)
def test_each_difference_is_told(planned: Case, verdicts: dict[str, str], sentence: str) -> None:
    """Another score, another check, another misconception: each has its sentence."""
    assert any(sentence in problem for problem in problems(planned, report(**verdicts)))


def test_a_silent_starter_is_told() -> None:
    """A starter's failure that names no TODO, or that nobody could judge."""
    starter = replace(case(0, ALL), is_starter=True)
    everything = report(**dict.fromkeys(ALL, "failed"))
    assert any("without naming a TODO" in problem for problem in problems(starter, everything))


def test_the_example_has_no_faults() -> None:
    """Exercise 2 is what others copy."""
    assert list(faults(EXERCISE, MATRIX)) == []


def test_a_thin_matrix_is_told() -> None:
    """Too few answers, a check without one, a misconception without one."""
    told = " ".join(faults(EXERCISE, Matrix()))
    assert "fewer than 2 alternatives" in told
    assert "fewer than 8 known-wrong" in told
    assert "no known-wrong answer is there for: at_once" in told
    assert "no known-wrong answer has: fixed_window" in told


@pytest.mark.parametrize("find_", ["not in the file", "self"])
def test_a_change_that_cannot_be_made_is_told(find_: str) -> None:
    """The text to change has to be there, once."""
    change = Change(file="rate_limit.py", find=find_, replace="x")
    wrong = KnownWrong(earned=90, fails=frozenset({"at_once"}), change=(change,))
    with pytest.raises(GradingError, match="times, not once"):
        list(cases(EXERCISE, Matrix(known_wrong={"some": wrong})))


def test_signatures_differ() -> None:
    """Names, arguments, defaults, annotations and async count; private names and bodies do not."""
    one = signatures(
        b"class A:\n    async def f(self, x: int = 1) -> int: ...\n    def _g(self): ..."
    )
    assert one.keys() == {"A", "A.f"}
    for other in (
        b"class A:\n    def f(self, x: int = 1) -> int: ...",
        b"class A:\n    async def f(self, x: int = 2) -> int: ...",
        b"class A:\n    async def f(self, x: str = 1) -> int: ...",
        b"class A:\n    async def f(self, x: int = 1) -> str: ...",
    ):
        assert signatures(other) != one


def test_mutants_are_all_different() -> None:
    """Each has its own name, reads as Python, and differs from the solution."""
    made = list(mutants(EXERCISE))
    assert len(made) > 30
    assert len({mutant.name for mutant in made}) == len(made)
    assert len({mutant.files["rate_limit.py"] for mutant in made}) == len(made)
    for mutant in made:
        compile(mutant.files["rate_limit.py"], "mutant", "exec")


def test_a_mutant_that_could_not_be_told_is_no_survivor_and_not_killed() -> None:
    """A fault of the judge is neither the suite's merit nor its gap."""
    assert fate([Verdict.PASSED, Verdict.PASSED]) == "SURVIVED"
    assert fate([Verdict.COULD_NOT_TELL, Verdict.CRASHED]) == "killed"
    assert fate([Verdict.PASSED, Verdict.COULD_NOT_TELL]) == "could not tell"


def test_what_nobody_could_tell_is_tried_again() -> None:
    """Only undecided checks get a second try, and what it says then counts."""
    first = Heard(
        collected={"at_once": 1, "idle_freed": 1},
        results=[
            Result("at_once", "t", Verdict.COULD_NOT_TELL),
            Result("idle_freed", "t", Verdict.FAILED),
        ],
        finished=True,
    )
    assert "at_once" in first.undecided(EXERCISE)
    assert "idle_freed" not in first.undecided(EXERCISE)
    second = Heard({"at_once": 1}, [Result("at_once", "t", Verdict.PASSED)], finished=True)
    both = first.mended_by(second)
    assert [(r.check, r.verdict) for r in both.results] == [
        ("idle_freed", Verdict.FAILED),
        ("at_once", Verdict.PASSED),
    ]


def test_late_failures_decide_nothing() -> None:
    """Before the moment an assertion fails; after it, the machine was too slow."""
    with pytest.raises(AssertionError), only_until(time.monotonic() + 60):
        raise AssertionError
    with pytest.raises(SandboxProblem), only_until(time.monotonic() - 1):
        raise AssertionError


def test_each_exercise_has_its_turn_all_the_time() -> None:
    """Any stretch of a run has each one's share in it, the last one too, and none is lost."""
    shares = [(find("medium/ex01"), 4), (find("medium/ex02"), 8)]
    planned = [
        replace(case(100, frozenset()), name=f"{number}", exercise=exercise)
        for exercise, count in shares
        for number in range(count)
    ]
    run_as = mixed(planned)
    assert sorted(map(id, run_as)) == sorted(map(id, planned))
    for start in range(0, 12, 3):
        names = [each.exercise.short for each in run_as[start : start + 3]]
        assert sorted(names) == ["medium/ex01", "medium/ex02", "medium/ex02"]


def test_a_run_that_is_stopped_says_so() -> None:
    """Told to stop, it ends with that, and calls no answer wrong that it has not graded."""
    told: list[Outcome] = []
    planned = [next(cases(EXERCISE, MATRIX))]
    with opened() as grader:
        grader.stopping.set()
        with pytest.raises(GradingError, match="Stopped before"):
            run(grader, planned, 1, told.append)
    assert told == []
