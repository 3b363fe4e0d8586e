"""`--scheduler ADDRESS`: the same jobs, graded by the workers of a Dask cluster.

A worker is a process with a checkout of this course of its own. A job goes there, and its grade
comes back, as JSON in a `bytes` object, which Dask sends as it is: what is pickled is the name of
the function below, and nothing of a submission.
"""

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client, Future, Worker, WorkerPlugin
from distributed.comm.addressing import get_address_host_port

from grader.batch import Done, Here, Job
from grader.catalogue import GradingError, Strict, find, load
from grader.grade import Grade, suite_digest
from grader.places import without_places
from grader.workspace import Intake

CONNECT_SECONDS = 10
HELLO_SECONDS = 60
"""For a scheduler that is there, and on a busy machine."""


class SentJob(Strict):
    key: str
    exercise: str
    private: str | None
    """Where the private suite lies, there as here."""

    suite: str
    seed: int
    files: dict[str, str]
    """In base64."""

    missing: tuple[str, ...]
    tampered: tuple[str, ...]
    accept_tier: int


class SentGrade(Strict):
    grade: Grade | None = None
    problem: str = ""
    again: bool = False


# --- here


class Cluster:
    """A `Team`: as many submissions at once as the workers have threads."""

    def __init__(self, client: Client, accept_tier: int) -> None:
        self._client = client
        self._accept_tier = accept_tier
        self._running: dict[str, Future[bytes]] = {}

    @property
    def at_once(self) -> int:
        return sum(self._client.nthreads().values())

    def prepare(self) -> None:
        if not self.at_once:
            raise GradingError(
                "The cluster has no workers; docs/grading.md says how to start some."
            )
        self._client.register_plugin(Graders())

    def start(self, job: Job, done: Callable[[Done], None]) -> None:
        sent = self._client.scatter(_as_bytes(job, self._accept_tier), hash=False)
        future = self._client.submit(grade_there, sent, pure=False)
        self._running[job.key] = future

        def came(finished: Future[bytes]) -> None:
            self._running.pop(job.key, None)
            done(_done(job, finished))

        future.add_done_callback(came)

    def stop(self) -> None:
        for future in list(self._running.values()):
            future.cancel()

    def close(self) -> None:
        """The workers end what they still run, and what they have started."""
        self._client.unregister_worker_plugin(Graders.name)


@contextmanager
def cluster(address: str, accept_tier: int) -> Iterator[Cluster]:
    """Raises GradingError when nobody answers at `address`."""
    try:
        with socket.create_connection(get_address_host_port(address), CONNECT_SECONDS):
            pass  # Dask itself would go on trying a port that nobody listens at
        client = Client(address, timeout=HELLO_SECONDS)
    except (OSError, ValueError) as exc:
        raise GradingError(f"No Dask scheduler answers at {address}.") from exc
    with client, ExitStack() as stack:
        team = Cluster(client, accept_tier)
        stack.callback(team.close)
        yield team


def _as_bytes(job: Job, accept_tier: int) -> bytes:
    sent = SentJob(
        key=job.key,
        exercise=job.exercise.id,
        private=str(job.exercise.private) if job.exercise.private else None,
        suite=job.suite,
        seed=job.seed,
        files={path: base64.b64encode(data).decode() for path, data in job.intake.files.items()},
        missing=tuple(job.intake.missing),
        tampered=tuple(job.intake.tampered),
        accept_tier=accept_tier,
    )
    return sent.model_dump_json().encode()


def _done(job: Job, finished: Future[bytes]) -> Done:
    if finished.status != "finished":
        return Done(job, problem=f"The cluster says that it is {finished.status}.", again=True)
    came = SentGrade.model_validate_json(finished.result())
    return Done(job, came.grade, came.problem, came.again)


# --- there


class Graders(WorkerPlugin):
    """What a worker keeps open between jobs, for as long as somebody has jobs for it."""

    name = "grader"

    def setup(self, worker: Worker) -> None:
        there.open(worker.state.nthreads)

    def teardown(self, worker: Worker) -> None:
        there.close()


class There:
    """This worker's own team of threads, around its own warm parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._here: Here | None = None
        self._suites: dict[str, str] = {}

    def open(self, at_once: int) -> None:
        with self._lock:
            self._stack = ExitStack()
            self._here = Here(self._stack, at_once)

    def close(self) -> None:
        with self._lock:
            if self._here:
                self._here.stop()
            self._here = None
            self._stack.close()

    def grade(self, sent: SentJob) -> SentGrade:
        exercise = load(Path(sent.private)) if sent.private else find(sent.exercise)
        with self._lock:
            here = self._here
            suite = self._suites.setdefault(exercise.key, suite_digest(exercise))
        if here is None:
            return SentGrade(problem="the worker was closed", again=True)
        if suite != sent.suite:
            return SentGrade(problem="A worker has another version of the course.")
        files = {path: base64.b64decode(data) for path, data in sent.files.items()}
        intake = Intake(files, list(sent.missing), list(sent.tampered))
        done = here.grade(Job(sent.key, exercise, suite, intake, sent.seed))
        if done.grade and done.grade.tier > sent.accept_tier:
            return SentGrade(problem=f"A worker's system allows tier {done.grade.tier} only.")
        return SentGrade(grade=done.grade, problem=done.problem, again=done.again)


there = There()


def grade_there(job: bytes) -> bytes:
    """In a thread of a worker. An exception would be sent as a pickle, so there is none."""
    try:
        came = there.grade(SentJob.model_validate_json(job))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it goes back as text
        came = SentGrade(problem=f"A worker: {type(exc).__name__}: {exc}", again=True)
    problem = without_places()(came.problem)
    return came.model_copy(update={"problem": problem}).model_dump_json().encode()
