"""The pytest plugin behind every suite: fixtures, one deadline a check, and results as they come.

`exercises/conftest.py` loads it, so that plain `pytest` in an exercise's folder grades the files in
that folder, and the runner's `pytest` grades a submission: the same suite, the same meaning.
"""

import asyncio
import functools
import inspect
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import pytest

from grader.assignment import VARIABLE, Assignment, Lane, receive
from grader.catalogue import Exercise, GradingError, is_suite, load
from grader.judge.client import Exchange, TooMuch
from grader.judge.documents import todo_for
from grader.judge.service import Crashed, NeverReady, Place, Service
from grader.judge.wires import Wires
from grader.report import Result, Verdict
from grader.sandbox import kernel
from grader.sandbox.client import SandboxProblem, WarmParent, strongest_walls
from grader.workspace import assemble, make_base, take_in
from shared.offline_model import OfflineModel

SHOWN_EXCHANGES = 6
SHOWN_OUTPUT = 4000
DEFAULT_SECONDS = 15.0


class Judge:
    """One pytest session: what it grades, and to whom it tells."""

    def __init__(self) -> None:
        self.assignment: Assignment | None = None
        self.results = -1
        self.seed = random.randrange(1_000_000)
        self.started = time.monotonic()
        self._stack = ExitStack()
        self._exercises: dict[Path, Exercise] = {}
        self._places: dict[Path, Place] = {}
        self._warm: WarmParent | None = None
        self._wires: Wires | None = None

    def exercise(self, folder: Path) -> Exercise:
        if folder not in self._exercises:
            self._exercises[folder] = load(folder)
        return self._exercises[folder]

    def place(self, folder: Path) -> Place:
        """Where to serve from: what the runner prepared, or else the files in `folder`."""
        if folder not in self._places:
            self._places[folder] = self._prepare(folder)
        return self._places[folder]

    def _prepare(self, folder: Path) -> Place:
        exercise = self.exercise(folder)
        if given := self.assignment:
            return Place(exercise, given.workspace, given.warm, given.tier)
        if self._warm is None:
            self._warm = self._stack.enter_context(WarmParent())
            self._warm.wait_until_warm()
            self._walls = strongest_walls(self._warm.address)
        intake = take_in(exercise, folder)
        if wrong := intake.tampered + intake.missing:
            pytest.fail(f"{wrong[0]}.", pytrace=False)
        workspace = self._warm.folder / folder.name
        base = make_base(exercise, self._warm.folder / f"{folder.name}-base")
        assemble(exercise, base, intake.files, workspace)
        return Place(exercise, workspace, self._warm.address, self._walls.tier)

    @property
    def wires(self) -> Wires:
        if self._wires is None:
            self._wires = self._stack.enter_context(Wires())
        return self._wires

    def take(self, assignment: Assignment, lane: Lane) -> None:
        """From here on this process grades one submission, and tells the runner."""
        self.assignment, self.results = assignment, lane.results
        self.seed = assignment.seed
        self.started = time.monotonic()

    def tell(self, message: dict[str, Any]) -> None:
        if self.assignment:
            data = json.dumps(message).encode() + b"\n"
            while data:
                data = data[os.write(self.results, data) :]

    def close(self) -> None:
        self._stack.close()


JUDGE = pytest.StashKey[Judge]()
SERVICE = pytest.StashKey[Service]()
SUBMITTED = pytest.StashKey[Sequence[Path]]()


def pytest_configure(config: pytest.Config) -> None:
    # What the garbage collector finds of the judge's own is nothing that a submission has done.
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestUnraisableExceptionWarning")
    config.stash[JUDGE] = Judge()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[JUDGE].close()


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[JUDGE].seed}"


# --- which test decides what, and how long it may take


def check_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("check")
    return mark.args[0] if mark else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the order in which the checks are declared; a test without one is an error."""
    judge = config.stash[JUDGE]
    graded = [item for item in items if is_suite(item.path.parent)]
    order: dict[pytest.Item, int] = {}
    for item in graded:
        declared = _declared(judge, item)
        order[item] = declared.index(check_of(item) or "")
        _set_deadline(judge, item)
    items.sort(key=lambda item: (str(item.path.parent), order.get(item, -1)))


def _declared(judge: Judge, item: pytest.Item) -> list[str]:
    try:
        declared = [check.id for check in judge.exercise(item.path.parent).checks]
    except GradingError as exc:
        raise pytest.UsageError(str(exc)) from exc
    if check_of(item) not in declared:
        raise pytest.UsageError(f"{item.nodeid} decides no check of exercise.toml; mark it @check.")
    return declared


def _set_deadline(judge: Judge, item: pytest.Item) -> None:
    assert isinstance(item, pytest.Function)
    seconds = judge.exercise(item.path.parent).check(check_of(item) or "").seconds
    if inspect.iscoroutinefunction(item.obj):
        item.obj = within(seconds, item.obj)


def within(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def timed(*args: Any, **kwargs: Any) -> None:
        try:
            async with asyncio.timeout(seconds) as deadline:
                await test(*args, **kwargs)
        except TimeoutError:
            if deadline.expired():
                raise TimedOut(f"This check is given {seconds:g} seconds.") from None
            raise

    return timed


class TimedOut(Exception):
    """A check that took longer than it may."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    judge = item.config.stash[JUDGE]
    if check_of(item) is None:
        return
    budget = judge.exercise(item.path.parent).seconds
    if judge.assignment and time.monotonic() - judge.started > budget:
        raise TimedOut(f"All checks together are given {budget:g} seconds.")


# --- fixtures


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for a Unix socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="g-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def model(short_folder: Path) -> Iterator[OfflineModel]:
    """The submission's model: the assistant, until told otherwise; it records every call."""
    with OfflineModel(uds=short_folder / "model") as model:
        yield model


@pytest.fixture
def service(request: pytest.FixtureRequest, model: OfflineModel) -> Service:
    """Serves the submission: `async with service(SETTING=value) as client:`."""
    judge = request.config.stash[JUDGE]
    service = Service(judge.place(request.path.parent), judge.wires, model)
    request.node.stash[SERVICE] = service
    return service


@pytest.fixture
def submitted(request: pytest.FixtureRequest) -> Path:
    """The folder with the submission's files, for exercises whose answer is a file to be read."""
    place = request.config.stash[JUDGE].place(request.path.parent)
    folder = place.workspace / place.exercise.home
    request.node.stash[SUBMITTED] = [folder / file.path for file in place.exercise.files]
    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance, from the seed that the report names; another for each test."""
    seed = request.config.stash[JUDGE].seed
    return random.Random(f"{seed}:{request.node.name}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.stash[JUDGE].seed


# --- results


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report: pytest.TestReport = yield
    id_ = check_of(item)
    if id_ is None or (call.when == "setup" and not call.excinfo):
        return report
    if call.when == "teardown" and not call.excinfo:
        return report
    judge = item.config.stash[JUDGE]
    result = make_result(id_, item, call)
    judge.tell({"result": asdict(result)})
    one_is_enough = judge.assignment and judge.assignment.first_failure_only
    if one_is_enough and result.verdict is not Verdict.PASSED:
        item.session.shouldstop = "one is enough"
    return report


def make_result(id_: str, item: pytest.Item, call: pytest.CallInfo[None]) -> Result:
    exc = call.excinfo.value if call.excinfo else None
    service = item.stash.get(SERVICE, None)
    verdict = verdict_of(exc, service, while_testing=call.when == "call")
    if verdict is Verdict.PASSED:
        return Result(id_, item.name, verdict, call.duration)
    if service is None:
        todo = todo_for(id_, item.stash.get(SUBMITTED, ()))
        return Result(id_, item.name, verdict, call.duration, said=words_of(exc), todo=todo)
    return Result(
        id_,
        item.name,
        verdict,
        call.duration,
        said=words_of(exc),
        todo=service.todo,
        exchanges=[_as_data(exchange) for exchange in service.journal[-SHOWN_EXCHANGES:]],
        asked=asked(service.model),
        printed=service.printed[-SHOWN_OUTPUT:],
    )


def verdict_of(
    exc: BaseException | None, service: Service | None, *, while_testing: bool
) -> Verdict:
    """Whose fault it is decides; a limit and a crash outweigh what the test saw of them."""
    if isinstance(exc, SandboxProblem) or (service and any(run.problem for run in service.runs)):
        return Verdict.COULD_NOT_TELL
    if exc is None:
        return Verdict.PASSED
    if isinstance(exc, TooMuch) or (
        service and any(_over_limit(run.ended) for run in service.runs)
    ):
        return Verdict.OVER_LIMIT
    if isinstance(exc, TimedOut | NeverReady):
        return Verdict.TIMED_OUT
    if isinstance(exc, Crashed) or (service and service.crashed):
        return Verdict.CRASHED
    if not while_testing or _is_ours(exc):
        return Verdict.COULD_NOT_TELL
    return Verdict.FAILED


def _is_ours(exc: BaseException) -> bool:
    """A full disk or too many files is this machine's fault; a broken connection is not."""
    on_the_wire = isinstance(exc, ConnectionError | TimeoutError)
    return isinstance(exc, MemoryError | OSError) and not on_the_wire


def _over_limit(ended: Any) -> bool:
    return bool(ended and ended.limit)


def words_of(exc: BaseException | None) -> str:
    """What the suite says to the student; an assertion without words has none."""
    if exc is None:
        return ""
    if isinstance(exc, AssertionError | TimedOut | Crashed | NeverReady | SandboxProblem | TooMuch):
        return str(exc).partition("\nassert ")[0]
    return f"{type(exc).__name__}: {exc}"


def _as_data(exchange: Exchange) -> dict[str, Any]:
    return {**asdict(exchange), "came": exchange.came.decode(errors="backslashreplace")}


def asked(model: OfflineModel) -> list[str]:
    """The last message of each call, and how the call ended."""
    return [
        f"{str(call.messages[-1].get('content'))[:200]!r}, {call.outcome}"
        if call.messages
        else f"nothing, {call.outcome}"
        for call in model.calls[-SHOWN_EXCHANGES:]
    ]


# --- for the runner: many submissions, one after another or side by side


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Wait for assignments, with the suite collected, and fork who grades them."""
    if VARIABLE not in os.environ:
        return None
    with socket.socket(fileno=int(os.environ[VARIABLE])) as connection:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
        while asked := receive(connection):
            assignment, lanes = asked
            mine = [item for item in session.items if _is_asked(assignment, item)]
            turns = _queue(len(mine))
            for lane in lanes:
                if not os.fork():
                    connection.close()
                    _grade(session, assignment, lane, mine, turns)
            for fd in (turns, *(fd for lane in lanes for fd in (lane.results, lane.printed))):
                os.close(fd)
    return True


def _is_asked(assignment: Assignment, item: pytest.Item) -> bool:
    return not assignment.only or check_of(item) in assignment.only


def _queue(length: int) -> int:
    """A pipe with the numbers 0 to `length`; each of several processes reads the next one."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"".join(number.to_bytes(2) for number in range(length)))
    os.close(write_end)
    return read_end


def _grade(
    session: pytest.Session,
    assignment: Assignment,
    lane: Lane,
    items: list[pytest.Item],
    turns: int,
) -> NoReturn:
    """In a process of its own, which ends here: the tests that nobody else has taken yet."""
    judge = session.config.stash[JUDGE]
    code = 1
    try:
        os.setsid()  # so that it can be ended with all that it has started
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (1, 2):
            os.dup2(lane.printed, fd)
        judge.take(assignment, lane)
        judge.tell({"process": os.getpid()})
        judge.tell({"collected": Counter(check_of(item) for item in items)})
        while not session.shouldstop and (turn := os.read(turns, 2)):
            item = items[int.from_bytes(turn)]
            another = next((each for each in items if each is not item), None)
            session._setupstate.teardown_exact(item)  # what another module's tests have set up
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=another)
        session._setupstate.teardown_exact(None)  # pytest itself learns late which test is the last
        judge.tell({"finished": True})
        judge.close()
        code = 0
    except BaseException:  # noqa: BLE001 - pytest is not to go on in this process, whatever came
        traceback.print_exc()
    finally:
        os._exit(code)
