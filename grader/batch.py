"""Grades many submissions: side by side, each once, and on again after an interruption."""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from grader.catalogue import Exercise, GradingError
from grader.grade import Grade, grade_of, suite_digest
from grader.journal import Journal
from grader.manifest import digest
from grader.runner import Grader, opened
from grader.sandbox.client import TIERS, SandboxProblem
from grader.workspace import Intake

SUBMISSIONS_PER_CORE = 3
"""At once: their checks wait longer than they work."""

TRIES = 3
"""In all, for what nobody could tell; the later ones one at a time, when the machine is quiet."""


@dataclass(frozen=True)
class Job:
    """One answer to one exercise. Answers that are the same bytes are one job."""

    key: str
    exercise: Exercise
    suite: str
    intake: Intake
    seed: int


@dataclass(frozen=True)
class Done:
    """A job's grade, or why there is none; `again` if that may be another time."""

    job: Job
    grade: Grade | None = None
    problem: str = ""
    again: bool = False
    kept: bool = False
    """It was graded before, and is in the journal."""


class Team(Protocol):
    """Whoever grades: threads of this process, or other machines."""

    @property
    def at_once(self) -> int:
        """How many it can have on its hands; more machines may come."""

    def prepare(self) -> None:
        """Before the first start, and only then. Raises GradingError when nobody can grade."""

    def start(self, job: Job, done: Callable[[Done], None]) -> None:
        """Returns at once; `done` is called once, from anywhere."""

    def stop(self) -> None:
        """End what is running. What has not begun comes back as done, without a grade."""


class Suites:
    """The digest of each exercise's suite, made once."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def job(self, exercise: Exercise, intake: Intake, seed: int) -> Job:
        if exercise.key not in self._digests:
            self._digests[exercise.key] = suite_digest(exercise)
        suite = self._digests[exercise.key]
        what = [*sorted(intake.files.items()), *((line, b"") for line in intake.tampered)]
        key = digest(iter([(exercise.key, b""), (suite, b""), (str(seed), b""), *what]))
        return Job(key, exercise, suite, intake, seed)


@dataclass
class Batch:
    """`tell` hears of each job that is done; `stopping` ends the batch with what there is."""

    team: Team
    journal: Journal
    tell: Callable[[Done], None]
    accept_tier: int = max(TIERS)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, jobs: Iterable[Job]) -> dict[str, Done]:
        """By key, in the order in which they were given. Jobs with the same key are one."""
        planned = {job.key: job for job in jobs}
        done = {key: self._kept(job) for key, job in planned.items()}
        for each in done.values():
            if each.grade:
                self.tell(each)
        left = [job for key, job in planned.items() if not done[key].grade]
        if left:
            self.team.prepare()
        self._pass(sorted(left, key=_longest_first), done)
        for _ in range(TRIES - 1):
            self._pass([each.job for each in done.values() if each.again], done, alone=True)
        return done

    def _kept(self, job: Job) -> Done:
        grade = self.journal.get(job.key)
        if grade and not grade.undecided and grade.tier <= self.accept_tier:
            return Done(job, grade, kept=True)
        return Done(job, problem="it was not graded")

    def _pass(self, jobs: Sequence[Job], done: dict[str, Done], *, alone: bool = False) -> None:
        """No more are given out than the team can begin with, so that stopping is soon."""
        came: queue.SimpleQueue[Done] = queue.SimpleQueue()
        waiting, running = list(reversed(jobs)), 0
        stopped = False
        while running or (waiting and not self.stopping.is_set()):
            room = 1 if alone else self.team.at_once
            while waiting and running < room and not self.stopping.is_set():
                self.team.start(waiting.pop(), came.put)
                running += 1
            if self.stopping.is_set() and not stopped:
                self.team.stop()
                stopped = True
            try:
                each = came.get(timeout=0.2)
            except queue.Empty:
                continue
            running -= 1
            done[each.job.key] = each
            if each.grade:
                self.journal.add(each.job.key, each.grade)
            self.tell(each)


def _longest_first(job: Job) -> tuple[float, str]:
    """What may take longest does not begin last."""
    return (-job.exercise.seconds, job.exercise.key)


class Here:
    """Threads of this process around one warm parent, which is replaced should it ever go."""

    def __init__(self, stack: ExitStack, at_once: int, accept_tier: int = max(TIERS)) -> None:
        self.at_once = at_once
        self._accept_tier = accept_tier
        self._stack = stack
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._grader: Grader | None = None
        self._pool = stack.enter_context(ThreadPoolExecutor(at_once))

    def prepare(self) -> None:
        grader = self._living()
        grader.ready()
        grader.insist_on(self._accept_tier)

    def start(self, job: Job, done: Callable[[Done], None]) -> None:
        self._pool.submit(lambda: done(self.grade(job)))

    def grade(self, job: Job) -> Done:
        """In this thread. Raises nothing: what is wrong with one is not the others' business."""
        try:
            grader = self._living()
            report = grader.grade(job.exercise, job.intake, seed=job.seed)
        except SandboxProblem as exc:
            return Done(job, problem=f"This machine cannot run submissions: {exc}.", again=True)
        except GradingError as exc:
            return Done(job, problem=str(exc))
        except OSError as exc:
            return Done(job, problem=f"This machine: {exc}.", again=True)
        if grader.stopping.is_set() and report.undecided:
            return Done(job, problem="it was stopped")
        grade = grade_of(report, job.suite, job.intake)
        return Done(job, grade, again=grade.undecided)

    def stop(self) -> None:
        self._stopping.set()

    def _living(self) -> Grader:
        with self._lock:
            if self._grader is None or self._grader.warm.gone:
                self._grader = self._stack.enter_context(opened())
                self._grader.stopping = self._stopping
            return self._grader


@contextmanager
def here(at_once: int | None = None, accept_tier: int = max(TIERS)) -> Iterator[Here]:
    with ExitStack() as stack:
        yield Here(stack, at_once or SUBMISSIONS_PER_CORE * (os.cpu_count() or 1), accept_tier)
