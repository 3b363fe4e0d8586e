"""What people type: `python -m grader grade medium/ex02`, and its friends."""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from grader import verify
from grader.catalogue import GradingError, all_exercises, find
from grader.render import render
from grader.runner import opened
from grader.sandbox.client import SandboxProblem
from grader.workspace import Intake, solution_files, take_in

LANES = 3
"""Judges at once for a single submission."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 for any score, 1 when something here is broken, 2 when the command is not understood."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except GradingError as exc:
        print(exc, file=sys.stderr)
    except SandboxProblem as exc:
        print(f"This machine cannot run submissions: {exc}.", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grader", description=__doc__)
    commands = parser.add_subparsers(required=True)
    grade = commands.add_parser("grade", help="grade one exercise")
    grade.set_defaults(run=_grade)
    grade.add_argument("exercise", help="such as medium/ex02")
    grade.add_argument("--submission", type=Path, help="the folder with the files (default: here)")
    grade.add_argument("--solution", action="store_true", help="grade the course's own solution")
    grade.add_argument("--seed", type=int, help="repeat a run that named this seed")
    grade.add_argument("--first", action="store_true", help="stop at the first check that fails")
    held = commands.add_parser("verify", help="hold the exercises to their matrix")
    held.set_defaults(run=_verify)
    held.add_argument("exercise", nargs="*", help="such as medium/ex02 (default: all)")
    held.add_argument("--seed", type=int, default=1)
    held.add_argument("--repeat", type=int, default=1, help="run all of it so often, and compare")
    held.add_argument("--records", type=Path, help="write the verdict records into this folder")
    return parser


def _grade(options: argparse.Namespace) -> int:
    exercise = find(options.exercise)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    if options.solution:
        intake = Intake(solution_files(exercise))
    else:
        intake = take_in(exercise, options.submission or exercise.folder)
    with opened() as grader:
        report = grader.grade(
            exercise, intake, seed=seed, lanes=LANES, first_failure_only=options.first
        )
    print(render(report, only_first=options.first), end="")
    return 1 if report.undecided and not options.first else 0


def _verify(options: argparse.Namespace) -> int:
    exercises = [find(name) for name in options.exercise] or all_exercises()
    planned, faults = [], []
    for exercise in exercises:
        matrix = verify.load_matrix(exercise)
        planned += list(verify.cases(exercise, matrix))
        faults += [f"{exercise.short} {fault}" for fault in verify.faults(exercise, matrix)]
    for fault in faults:
        print(fault)
    started = time.monotonic()
    with opened() as grader:
        runs = [
            verify.run(grader, planned, options.seed, _tell_outcome) for _ in range(options.repeat)
        ]
    records = [[outcome.report.record_bytes() for outcome in outcomes] for outcomes in runs]
    same = all(each == records[0] for each in records)
    if not same:
        print("The records of two runs under one seed differ.")
    if options.records:
        _write_records(options.records, runs[0])
    wrong = sum(bool(outcome.problems) for outcomes in runs for outcome in outcomes)
    print(
        f"{len(exercises)} exercises, {len(planned)} submissions, {options.repeat} times:"
        f" {wrong or 'none'} not as declared, {len(faults) or 'no'} faults."
        f" {time.monotonic() - started:.0f} s."
    )
    return 1 if wrong or faults or not same else 0


def _tell_outcome(outcome: verify.Outcome) -> None:
    case, report = outcome.case, outcome.report
    mark = "as declared" if not outcome.problems else "WRONG"
    print(f"{mark:<12}{report.earned:>4}  {case.exercise.short} {case.name} {report.seconds:.1f} s")
    for problem in outcome.problems:
        print(f"    {problem}")


def _write_records(folder: Path, outcomes: Sequence[verify.Outcome]) -> None:
    for outcome in outcomes:
        path = folder / outcome.case.exercise.id / f"{outcome.case.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(outcome.report.record_bytes())
