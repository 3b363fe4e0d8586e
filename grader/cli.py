"""What people type: `python -m grader grade medium/ex02`, and its friends."""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from grader.catalogue import GradingError, find
from grader.render import render
from grader.runner import opened
from grader.sandbox.client import SandboxProblem
from grader.workspace import Intake, solution_files, take_in


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
    return parser


def _grade(options: argparse.Namespace) -> int:
    exercise = find(options.exercise)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    if options.solution:
        intake = Intake(solution_files(exercise))
    else:
        intake = take_in(exercise, options.submission or exercise.folder)
    with opened() as grader:
        report = grader.grade(exercise, intake, seed=seed, first_failure_only=options.first)
    print(render(report, only_first=options.first), end="")
    return 1 if report.undecided and not options.first else 0
