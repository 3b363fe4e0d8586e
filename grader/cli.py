"""What people type: `python -m grader grade medium/ex02`, and its friends."""

import argparse
import random
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from grader import bench, mutants, verify, watch
from grader.catalogue import Exercise, GradingError, all_exercises, find
from grader.classroom import OUT, Order, grade_class
from grader.gradescope import make_autograder
from grader.kit import make_kit
from grader.render import NAMES, WIDTH, render, render_first
from grader.report import Report, Result, Verdict
from grader.runner import Grader, opened
from grader.sandbox.client import TIERS, SandboxProblem
from grader.signals import handled
from grader.state import State
from grader.submit import make_archive
from grader.words import counted
from grader.workspace import Intake, solution_files, take_in

LANES = 4
"""Judges at once for a single submission."""

FILE_NAME = re.compile(r"[\w@][\w.@-]{0,99}")
ARCHIVE = "submission"
FULL = 100
NOT_KEPT = "This checkout cannot be written to, so nothing is remembered."


def main(arguments: Sequence[str] | None = None) -> int:
    """0 for any score, 1 when something here is broken, 2 when the command is not understood."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except GradingError as exc:
        print(exc, file=sys.stderr)
    except SandboxProblem as exc:
        print(f"This machine cannot run submissions: {exc}.", file=sys.stderr)
    except KeyboardInterrupt:
        print()
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grader", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], what: str, exercises: str = "?"
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.set_defaults(run=run)
        added.add_argument("exercise", nargs=exercises, default="", help="such as medium/ex02")
        return added

    grade = command("grade", _grade, "grade an exercise, all that are here, or a class", "*")
    grade.add_argument("--submission", type=Path, help="the folder with the files (default: here)")
    grade.add_argument("--solution", action="store_true", help="grade the course's own solution")
    grade.add_argument("--seed", type=int, help="repeat a run that named this seed")
    grade.add_argument("--official", action="store_true", help="refuse below --accept-tier")
    grade.add_argument("--accept-tier", type=int, choices=TIERS, default=1, help="(default: 1)")
    grade.add_argument("--submissions", type=Path, help="a class: the folder that holds them")
    grade.add_argument("--student", help="--submissions holds one student's, called this")
    grade.add_argument("--out", type=Path, default=OUT, help="where reports go (default: reports)")
    grade.add_argument("--rubric", type=Path, help="weights, what lateness costs: a TOML file")
    grade.add_argument("--private", type=Path, help="suites of your own: a folder of them")
    grade.add_argument("--at-once", type=_at_least_one, help="submissions (default: 3 a core)")
    grade.add_argument("--scheduler", help="grade on this Dask cluster, such as tcp://host:8786")
    command("hint", _hint, "give the next hint, and count it")
    command("watch", _watch, "grade again on every save")
    command("progress", _progress, "show all exercises, their scores and hints", "*")
    held = command("verify", _verify, "hold the exercises to their matrix", "*")
    held.add_argument("--seed", type=int, default=1)
    held.add_argument("--repeat", type=int, default=1, help="run all of it so often, and compare")
    held.add_argument("--records", type=Path, help="write the verdict records into this folder")
    command("mutants", _mutants, "break the solutions, and count what the suites notice", "*")
    command("bench", _bench, "measure how many submissions a minute")
    submit = command("submit", _submit, "pack the files that you may change, to hand them in", "*")
    submit.add_argument("--name", help=f"yours, for the archive (default: {ARCHIVE})")
    submit.add_argument("--out", type=Path, default=Path(), help="the folder it goes to")
    scope = command("gradescope", _gradescope, "make a Gradescope autograder", "*")
    scope.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    kit = commands.add_parser("kit", help="make the students' copy of the course")
    kit.set_defaults(run=_kit)
    kit.add_argument("out", type=Path, help="a folder that is not there yet")
    return parser


def _ended_by_signals() -> AbstractContextManager[None]:
    """SIGTERM and Ctrl-C raise KeyboardInterrupt, once: then what was started is being ended."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: object) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    return handled(stop, *numbers)


def _until_told_to_stop(grader: Grader, *numbers: signal.Signals) -> AbstractContextManager[None]:
    """These signals end the grading, with the results so far."""
    return handled(lambda number, frame: grader.stopping.set(), *numbers)


# --- grade


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _grade(options: argparse.Namespace) -> int:
    one = len(options.exercise) == 1 and options.submissions is None
    return _grade_one(options) if one else _grade_many(options)


def _grade_many(options: argparse.Namespace) -> int:
    if options.submission or options.solution:
        raise GradingError("--submission and --solution are for one exercise; name it with EX=.")
    return grade_class(
        Order(
            exercises=[find(name) for name in options.exercise] or all_exercises(),
            submissions=options.submissions,
            student=options.student,
            out=options.out,
            rubric=options.rubric,
            private=options.private,
            seed=options.seed,
            at_once=options.at_once,
            scheduler=options.scheduler,
            official=options.official,
            accept_tier=options.accept_tier,
        )
    )


def _grade_one(options: argparse.Namespace) -> int:
    exercise = find(options.exercise[0])
    try:
        with _ended_by_signals(), opened([exercise.track]) as grader:
            report = _report(options, exercise, grader)
    except KeyboardInterrupt:
        print(f"Stopped: {exercise.short} was not graded to its end, so nothing is kept.")
        return 130
    print(render(report), end="")
    if not (options.solution or options.submission or report.partial):
        _remember(report)
    return 1 if report.undecided else 0


def _report(options: argparse.Namespace, exercise: Exercise, grader: Grader) -> Report:
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    intake = _intake(options, exercise)
    grader.base(exercise)
    grader.ready()
    if options.official:
        grader.insist_on(options.accept_tier)
    with _until_told_to_stop(grader, signal.SIGTERM):  # whoever presses Ctrl-C wants no report
        return grader.grade(exercise, intake, seed=seed, lanes=LANES)


def _intake(options: argparse.Namespace, exercise: Exercise) -> Intake:
    if options.solution:
        return Intake(solution_files(exercise))
    return take_in(exercise, options.submission or exercise.folder)


def _remember(report: Report) -> None:
    state = State()
    state.update(report.exercise.id, earned=report.earned, failing=report.failed)
    if not state.kept:
        print(NOT_KEPT)


# --- hint, watch, progress


def _hint(options: argparse.Namespace) -> int:
    exercise, state = find(options.exercise), State()
    if state.of(exercise.id).earned == FULL:
        print(f"{exercise.short} had all of its {FULL} points when you last graded it, and no hint")
        print(f"tells more. make grade EX={exercise.short} looks at it again.")
        return 0
    number = min(state.of(exercise.id).hints + 1, len(exercise.hints))
    state.update(exercise.id, hints=number)
    print(f"{exercise.short}, hint {number} of {len(exercise.hints)}")
    print(textwrap.fill(exercise.hints[number - 1], WIDTH))
    if number == len(exercise.hints):
        print("That was the last one.")
    if not state.kept:
        print(NOT_KEPT)
    return 0


def _watch(options: argparse.Namespace) -> int:
    exercise = find(options.exercise)
    print(f"Watching {exercise.short}; Ctrl-C stops.", flush=True)
    with opened([exercise.track]) as grader:
        grader.base(exercise)
        grader.ready()
        failing: str | None = None
        for _ in watch.saves(exercise):
            print(f"\n--- {time.strftime('%H:%M:%S')}", flush=True)
            lines = watch.Lines(_tell_result)
            report = watch.grade_again(grader, exercise, failing, lines.hear)
            lines.end()
            failing = _first_failing(report)
            print(f"\n{render_first(report)}", end="", flush=True)
    return 0


def _tell_result(result: Result) -> None:
    print(f"  {NAMES[result.verdict]:<14} {result.check}", flush=True)


def _first_failing(report: Report) -> str | None:
    wrong = (check for check in report.checks if check.result)
    return next((check.id for check in wrong if check.verdict is not Verdict.PASSED), None)


def _progress(options: argparse.Namespace) -> int:
    state = State()
    exercises = [find(name) for name in options.exercise] or all_exercises()
    for exercise in exercises:
        tried = state.of(exercise.id)
        score = "not tried" if tried.earned is None else f"{tried.earned} of 100"
        hints = f"{tried.hints} of {len(exercise.hints)} hints"
        print(f"{exercise.short:<16}{score:<12}{hints:<14}{exercise.title}"[:WIDTH])
    done = sum(state.of(exercise.id).earned == 100 for exercise in exercises)
    print(f"{done} of {len(exercises)} complete.")
    return 0


def _submit(options: argparse.Namespace) -> int:
    if options.name and not FILE_NAME.fullmatch(options.name):
        raise GradingError("NAME= is letters, digits and any of . _ - and @, for a file's name.")
    exercises = [find(name) for name in options.exercise] or all_exercises()
    out = options.out / f"{options.name or ARCHIVE}.zip"
    for line in make_archive(out, exercises, State()):
        print(line)
    if not options.name:
        print(f"It is called {ARCHIVE}, since nobody said NAME=, as in: make submit NAME=alice")
    print(f"{out} is what you hand in.")
    return 0


# --- for trainers


def _mutants(options: argparse.Namespace) -> int:
    exercises = [find(name) for name in options.exercise] or all_exercises()
    with opened() as grader:
        for exercise in exercises:
            equivalent = mutants.argued(exercise)
            made = list(mutants.mutants(exercise))
            if unknown := equivalent - {mutant.name for mutant in made}:
                raise GradingError(f"{exercise.short} has no mutant {min(unknown)!r} any more.")
            asked = [mutant for mutant in made if mutant.name not in equivalent]
            count = sum(mutants.killed(grader, exercise, asked, print))
            share = f"{100 * count / len(asked):.1f} %" if asked else "nothing to kill"
            print(f"{exercise.short}: {count} of {len(asked)} killed, {share};", end=" ")
            print(f"{len(equivalent)} argued to be equivalent.", flush=True)
    return 0


def _bench(options: argparse.Namespace) -> int:
    for line in bench.measure(find(options.exercise)):
        print(line, flush=True)
    return 0


def _kit(options: argparse.Namespace) -> int:
    files = make_kit(options.out)
    print(f"{options.out} has the students' copy: {files} files. They begin with its README.md.")
    return 0


def _gradescope(options: argparse.Namespace) -> int:
    exercises = [find(name) for name in options.exercise] or all_exercises()
    files = make_autograder(options.out, exercises)
    print(f"{options.out} has {files} files. Zip what is in it, and upload that as an autograder.")
    return 0


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
    with opened() as grader, _until_told_to_stop(grader, signal.SIGTERM, signal.SIGINT):
        mixed = verify.mixed(planned)
        runs = [
            verify.run(grader, mixed, options.seed, _tell_outcome) for _ in range(options.repeat)
        ]
    records = [[outcome.report.record_bytes() for outcome in outcomes] for outcomes in runs]
    same = all(each == records[0] for each in records)
    if not same:
        print("The records of two runs under one seed differ.")
    if options.records:
        _write_records(options.records, runs[0])
    wrong = sum(bool(outcome.problems) for outcomes in runs for outcome in outcomes)
    print(
        f"{counted(len(exercises), 'exercise')}, {counted(len(planned), 'submission')},"
        f" {counted(options.repeat, 'time')}: {wrong or 'none'} not as declared,"
        f" {counted(len(faults), 'fault') if faults else 'no faults'}."
        f" {time.monotonic() - started:.0f} s."
    )
    return 1 if wrong or faults or not same else 0


def _tell_outcome(outcome: verify.Outcome) -> None:
    case, report = outcome.case, outcome.report
    mark = "as declared" if not outcome.problems else "WRONG"
    lines = [
        f"{mark:<12}{report.earned:>4}  {case.exercise.short} {case.name} {report.seconds:.1f} s",
        *(f"    {problem}" for problem in outcome.problems),
    ]
    print("\n".join(lines), flush=True)


def _write_records(folder: Path, outcomes: Sequence[verify.Outcome]) -> None:
    for outcome in outcomes:
        path = folder / outcome.case.exercise.id / f"{outcome.case.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(outcome.report.record_bytes())
