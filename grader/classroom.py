"""`make grade` for more than one answer: intake, batch, reports, in that order."""

import random
import signal
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from grader import reports
from grader.batch import Batch, Done, Job, Suites, Team, here
from grader.catalogue import Exercise, GradingError, private_suites
from grader.intake import HANDED_IN, Answer, Class, Student, take_in_class, take_in_student
from grader.journal import NAME as JOURNAL
from grader.journal import Journal
from grader.progress import outcome, progress
from grader.render import printable
from grader.reports.forms import remarks
from grader.results import ClassResults, assemble, legible
from grader.rubric import Rubric, handed_in, load_rubric
from grader.sandbox.client import TIERS
from grader.signals import handled
from grader.similar import Similar, similar
from grader.words import counted
from grader.workspace import take_in

OUT = Path("reports")
THIS_TREE = "here"
Jobs = dict[tuple[str, str], Job]


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    exercises: Sequence[Exercise]
    submissions: Path | None = None
    """None: the exercises in this tree, as one student's."""

    student: str | None = None
    """`submissions` is one student's, called this."""

    out: Path = OUT
    rubric: Path | None = None
    private: Path | None = None
    """Suites of the trainer's own."""

    seed: int | None = None
    at_once: int | None = None
    scheduler: str | None = None
    """The address of a Dask cluster whose workers are to do it."""

    official: bool = False
    accept_tier: int = 1
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def needed_tier(self) -> int:
        return self.accept_tier if self.official else max(TIERS)


def grade_class(order: Order) -> int:
    """0 for any scores; 1 when something could not be graded that is nobody's fault; 130 stopped.

    Raises GradingError.
    """
    _refuse_to_overwrite(order)
    rubric = load_rubric(order.rubric, order.exercises)
    suites = _private(order)
    handed = _handed(order)
    moments = handed_in(order.submissions / HANDED_IN) if order.submissions else {}
    handed = replace(
        handed, left_alone=[*handed.left_alone, *_nobody_here(handed, moments, rubric)]
    )
    with Journal(order.out, lambda: random.randrange(1_000_000)) as journal:
        seed = journal.seed if order.seed is None else order.seed
        jobs = _jobs(handed, suites, seed)
        with _stopped_by_signals(order.stopping):
            done = _graded(order, journal, jobs)
        alike = _alike(handed, order.exercises, rubric.similar_from)
        results = assemble(
            handed,
            jobs,
            done,
            order.exercises,
            suites,
            rubric,
            moments,
            seed=seed,
            official_tier=order.accept_tier,
            similar=alike,
        )
        every = [*order.exercises, *suites.values()]
        reports.write(order.out, results, {exercise.key: exercise for exercise in every})
    return _told(order, results, done)


def _refuse_to_overwrite(order: Order) -> None:
    """Some folders in OUT are made anew, and what was in them is gone."""
    out = order.out.resolve()
    if order.submissions:
        handed = order.submissions.resolve()
        within = out == handed or (handed in out.parents and out.parent != handed)
        if within or any(out / name in (handed, *handed.parents) for name in reports.MADE_HERE):
            raise GradingError(f"OUT={order.out} would mix with SUBMISSIONS=; name another OUT.")
    if not any((out / name).exists() for name in (JOURNAL, "index.html")):
        for name in reports.MADE_HERE:
            if (out / name).exists():
                raise GradingError(
                    f"OUT={order.out} has a folder {name} already, which is not of an earlier run"
                    " and would be lost; name another OUT."
                )


def _handed(order: Order) -> Class:
    if order.submissions is None:
        answers = [Answer(each, take_in(each, each.folder)) for each in order.exercises]
        return Class([Student(THIS_TREE, answers)])
    try:
        if order.student is not None:
            student = take_in_student(order.student, [order.submissions], order.exercises)
            return Class([student])
        handed = take_in_class(order.submissions, order.exercises, order.out.resolve())
    except OSError as exc:
        where = f"SUBMISSIONS={order.submissions}"
        raise GradingError(f"{where} cannot be read: {exc.strerror}.") from exc
    if not handed.students:
        raise GradingError(f"SUBMISSIONS={order.submissions} holds nobody's submission.")
    return handed


def _nobody_here(handed: Class, moments: Iterable[str], rubric: Rubric) -> Iterator[str]:
    """A slip of the pen in a name would cost somebody their extension, or forgive being late."""
    here = {student.name for student in handed.students}
    named = {HANDED_IN: moments, "The rubric": rubric.late.extensions if rubric.late else ()}
    for where, names in named.items():
        yield from (
            f"{where} names {name}, and nobody here is called that"
            for name in names
            if name not in here
        )


def _private(order: Order) -> dict[str, Exercise]:
    """By the exercise's id."""
    asked = {exercise.id for exercise in order.exercises}
    found = private_suites(order.private) if order.private else []
    return {suite.id: suite for suite in found if suite.id in asked}


def _jobs(handed: Class, private: Mapping[str, Exercise], seed: int) -> Jobs:
    suites = Suites()
    jobs = {}
    for student in handed.students:
        for answer in student.answers:
            both = [answer.exercise, private.get(answer.exercise.id)]
            for exercise in both if not answer.problem else []:
                if exercise:
                    jobs[student.name, exercise.key] = suites.job(exercise, answer.intake, seed)
    return jobs


def _graded(order: Order, journal: Journal, jobs: Jobs) -> dict[str, Done]:
    whose: defaultdict[str, list[str]] = defaultdict(list)
    for (student, _), job in jobs.items():
        whose[job.key].append(legible(student))
    if not jobs:
        return {}
    with progress(len(whose)) as teller, _team(order) as team:

        def tell(done: Done) -> None:
            first, *others = whose[done.job.key]
            more = f" and {len(others)} more" if others else ""
            teller.tell(f"{first}{more}", done)

        return Batch(team, journal, tell, order.needed_tier, order.stopping).run(jobs.values())


def _team(order: Order) -> AbstractContextManager[Team]:
    if order.scheduler:
        from grader.cluster import cluster  # noqa: PLC0415 - half a second that only this needs

        return cluster(order.scheduler, order.needed_tier)
    return here(order.at_once, order.needed_tier)


def _alike(handed: Class, exercises: Sequence[Exercise], percent: float) -> Iterator[Similar]:
    for exercise in exercises:
        files = {
            legible(student.name): answer.intake.files
            for student in handed.students
            for answer in student.answers
            if answer.exercise.id == exercise.id
        }
        if len(files) > 1:
            yield from similar(exercise, files, percent)


def _stopped_by_signals(stopping: threading.Event) -> AbstractContextManager[None]:
    """SIGTERM and Ctrl-C: what is graded stays graded, and the next run goes on from there."""
    return handled(lambda number, frame: stopping.set(), signal.SIGTERM, signal.SIGINT)


def _told(order: Order, results: ClassResults, done: dict[str, Done]) -> int:
    stopped = order.stopping.is_set()
    for line in () if stopped else _remarks(results):
        print(on_one_line(line))
    undecided = [each for each in done.values() if not each.grade or each.grade.undecided]
    graded = len(done) - len(undecided)
    students, answers = len(results.students), counted(len(done), "different answer")
    print(f"{counted(students, 'student')}, {graded} of {answers} graded.")
    print(f"The reports begin with {order.out / 'index.html'}.")
    if stopped:
        print("Stopped. The same command goes on where it was.")
        return 130
    for each in undecided:
        print(on_one_line(f"{each.job.exercise.short}: {outcome(each)}"))
    return 1 if undecided else 0


def _remarks(results: ClassResults) -> Iterator[str]:
    yield from results.left_alone
    for student in results.students:
        yield from (f"{student.name}: {line}" for line in remarks(student))


def on_one_line(text: str) -> str:
    """A file's name may hold whatever it likes, line ends too."""
    return printable(text).replace("\n", "\\n")
