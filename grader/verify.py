"""Holds each exercise to its matrix: what every known answer to it earns, exactly."""

import ast
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from grader.catalogue import Exercise, GradingError, RelativePath, Strict
from grader.report import Report, Verdict
from grader.runner import Grader
from grader.workspace import Intake, solution_files, take_in

ALTERNATIVES, KNOWN_WRONG = 2, 8
"""How many of each an exercise has at least."""

AT_ONCE_PER_CORE = 3
"""Submissions: with two of them a core was idle for a quarter of the time, in which all waited."""


class Change(Strict):
    file: RelativePath
    find: str = Field(min_length=1)
    replace: str


class Variant(Strict):
    """The solution with something changed."""

    change: tuple[Change, ...] = ()


class KnownWrong(Variant):
    earned: int = Field(ge=0, lt=100)
    fails: frozenset[str] = Field(min_length=1)
    misconception: str | None = None


class Matrix(Strict):
    """One `matrix.toml`."""

    alternatives: dict[str, Variant] = Field(default_factory=dict)
    known_wrong: dict[str, KnownWrong] = Field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A submission, and what it has to earn."""

    exercise: Exercise
    name: str
    intake: Intake
    earned: int
    fails: frozenset[str]
    misconception: str | None = None
    is_starter: bool = False


@dataclass(frozen=True)
class Outcome:
    case: Case
    report: Report
    problems: Sequence[str]


def load_matrix(exercise: Exercise) -> Matrix:
    """Raises GradingError."""
    path = matrix_folder(exercise) / "matrix.toml"
    try:
        return Matrix.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise GradingError(
            f"{path} is missing; exercises/AUTHORING.md says what it holds."
        ) from None
    except (tomllib.TOMLDecodeError, ValidationError) as exc:
        raise GradingError(f"{path} needs mending: {exc}") from exc


def matrix_folder(exercise: Exercise) -> Path:
    return exercise.root / "tests/exercises" / exercise.track / exercise.folder.name


def cases(exercise: Exercise, matrix: Matrix) -> Iterator[Case]:
    """Raises GradingError when a change cannot be made."""
    nothing, everything = frozenset[str](), frozenset(check.id for check in exercise.checks)
    solution = solution_files(exercise)
    yield Case(exercise, "solution", Intake(solution), 100, nothing)
    starter = take_in(exercise, exercise.folder)
    yield Case(exercise, "starter", starter, 0, everything, is_starter=True)
    for name, variant in matrix.alternatives.items():
        yield Case(exercise, name, _varied(exercise, solution, name, variant), 100, nothing)
    for name, wrong in matrix.known_wrong.items():
        files = _varied(exercise, solution, name, wrong)
        yield Case(exercise, name, files, wrong.earned, wrong.fails, wrong.misconception)


def _varied(exercise: Exercise, solution: dict[str, bytes], name: str, variant: Variant) -> Intake:
    folder = matrix_folder(exercise) / name
    files = {**solution, **(take_in(exercise, folder).files if folder.is_dir() else {})}
    for change in variant.change:
        text = files[change.file].decode()
        if (count := text.count(change.find)) != 1:
            raise GradingError(
                f"{exercise.short} {name}: the text to change occurs {count} times, not once:"
                f" {change.find.strip()!r}"
            )
        files[change.file] = text.replace(change.find, change.replace).encode()
    if files == solution:
        raise GradingError(f"{exercise.short} {name} is the solution; change something.")
    return Intake(files)


# --- what can be seen without running anything


def faults(exercise: Exercise, matrix: Matrix) -> Iterator[str]:
    """Sentences on what is missing, or promises what it does not keep."""
    if len(matrix.alternatives) < ALTERNATIVES:
        yield f"has fewer than {ALTERNATIVES} alternatives"
    if len(matrix.known_wrong) < KNOWN_WRONG:
        yield f"has fewer than {KNOWN_WRONG} known-wrong answers"
    declared = {check.id: check.points for check in exercise.checks}
    caught = {id_ for wrong in matrix.known_wrong.values() for id_ in _telling(wrong, declared)}
    for id_ in declared.keys() - caught:
        yield f"has a check that no known-wrong answer is there for: {id_}"
    for name, wrong in matrix.known_wrong.items():
        if unknown := wrong.fails - declared.keys():
            yield f"{name} fails {min(unknown)}, which is no check"
        elif 100 - sum(declared[id_] for id_ in wrong.fails) != wrong.earned:
            yield f"{name} does not add up: those checks leave another score"
    named = {wrong.misconception for wrong in matrix.known_wrong.values()}
    for known in exercise.misconceptions:
        if known.id not in named:
            yield f"has a misconception that no known-wrong answer has: {known.id}"
    yield from _other_names(exercise)


def _telling(wrong: KnownWrong, declared: dict[str, int]) -> frozenset[str]:
    """One that fails everything tells nothing about a single check."""
    return frozenset() if wrong.fails == declared.keys() else wrong.fails


def _other_names(exercise: Exercise) -> Iterator[str]:
    solution, starter = solution_files(exercise), take_in(exercise, exercise.folder)
    for path, solved in solution.items():
        if path not in starter.files:
            yield f"has no starter for {path}"
        elif path.endswith(".py"):
            given, wanted = signatures(starter.files[path]), signatures(solved)
            for name in sorted(given.keys() ^ wanted.keys()):
                yield f"{path}: {name} is in the {'starter' if name in given else 'solution'} alone"
            for name in sorted(given.keys() & wanted.keys()):
                if given[name] != wanted[name]:
                    yield f"{path}: starter and solution declare {name} differently"


def signatures(source: bytes) -> dict[str, str]:
    """Public functions, classes and methods, and how each is declared."""
    found: dict[str, str] = {}

    def look(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[prefix + node.name] = "class"
                look(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + node.name] = _declaration(node)

    look(ast.parse(source).body, "")
    return {name: how for name, how in found.items() if not _is_private(name)}


def _declaration(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returns = ast.unparse(node.returns) if node.returns else "nothing said"
    return f"{type(node).__name__}({ast.unparse(node.args)}) -> {returns}"


def _is_private(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.endswith("__")


# --- what has to be run


def run(
    grader: Grader, planned: Sequence[Case], seed: int, tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """In parallel, but in the order given: what is planned comes back as it was planned.

    Raises GradingError when it is told to stop on the way.
    """
    grader.ready()

    def one(case: Case) -> Outcome:
        report = grader.grade(case.exercise, case.intake, seed=seed)
        if report.undecided:
            report = grader.grade(case.exercise, case.intake, seed=seed)
        if grader.stopping.is_set():
            raise GradingError("Stopped before every submission had its turn, so nothing is held.")
        outcome = Outcome(case, report, list(problems(case, report)))
        tell(outcome)
        return outcome

    with ThreadPoolExecutor(AT_ONCE_PER_CORE * (os.cpu_count() or 1)) as pool:
        return list(pool.map(one, planned))


def mixed(planned: Sequence[Case]) -> list[Case]:
    """Each exercise's are spread over the whole run: some wait for most of the time, and leave the
    cores to others, which work."""
    all_of = Counter(case.exercise.id for case in planned)
    so_far = Counter[str]()

    def place(case: Case) -> float:
        so_far[case.exercise.id] += 1
        return so_far[case.exercise.id] / (all_of[case.exercise.id] + 1)

    return sorted(planned, key=place)


def problems(case: Case, report: Report) -> Iterator[str]:
    """How the report differs from what was declared."""
    if report.earned != case.earned:
        yield f"earned {report.earned}, not {case.earned}"
    unexpected = sorted(set(report.failed) - case.fails)
    missed = sorted(case.fails - set(report.failed))
    for check in report.checks:
        if check.id in unexpected:
            said = check.result.said if check.result else "its test did not run"
            yield f"{check.id} should pass, and {check.verdict.value}: {said}"
    yield from (f"{id_} should fail, and passed" for id_ in missed)
    if not case.is_starter and report.misconception != case.misconception:
        yield f"shows the misconception {report.misconception}, not {case.misconception}"
    if case.is_starter:
        yield from _silent_failures(report)


def _silent_failures(report: Report) -> Iterator[str]:
    for check in report.checks:
        result = check.result
        if check.verdict is Verdict.COULD_NOT_TELL or result is None:
            yield f"{check.id}: nobody could tell"
        elif not (result.todo or "TODO" in result.said or "TODO" in result.printed):
            yield f"{check.id} fails without naming a TODO"
