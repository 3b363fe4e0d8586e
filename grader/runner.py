"""Grades one submission: a workspace, judges of its own, and a report of what they said."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grader.assignment import MEMORY, VARIABLE, Assignment, Lane, send
from grader.catalogue import ROOT, TRACKS, Exercise, GradingError
from grader.places import without_places
from grader.report import Report, Result, Verdict, all_alike, judge_checks
from grader.sandbox.client import TIERS, SandboxProblem, WarmParent, strongest_walls
from grader.workspace import Intake, assemble, make_base, open_book

GRACE_SECONDS = 30
LOOK_SECONDS = 0.2
MAX_PRINTED = 4000
NOT_PASSED_ON = ("OPENAI_", "LANGSMITH_", "LANGCHAIN_", "PYTEST_", "PYTHON", "COVERAGE")


@dataclass
class Grader:
    """What many submissions share: the warm parent, each exercise's base and its judge."""

    warm: WarmParent
    tier: int = 0
    parts: Sequence[str] = ()
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set it, and grading ends at once, with the results so far."""
    _bases: dict[str, Path] = field(default_factory=dict)
    _judges: dict[str, "Judges"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def base(self, exercise: Exercise) -> Path:
        with self._lock:
            if exercise.id not in self._bases:
                folder = self.warm.folder / "base" / exercise.id
                folder.mkdir(parents=True)
                self._bases[exercise.id] = make_base(exercise, folder)
            return self._bases[exercise.id]

    def judges(self, exercise: Exercise) -> "Judges":
        """Who has read the exercise's suite. They start to, when they are first asked for."""
        with self._lock:
            judges = self._judges.get(exercise.key)
            if judges is None or judges.gone:
                judges = self._judges[exercise.key] = Judges(exercise, self.warm)
            return judges

    def ready(self) -> None:
        """Wait for the warm parent, and find out what walls it can build."""
        with self._lock:
            if not self.tier:
                self.warm.wait_until_warm()
                walls = strongest_walls(self.warm.address)
                self.tier, self.parts = walls.tier, walls.parts

    def insist_on(self, accept_tier: int) -> None:
        """Raises GradingError when the walls are weaker than that."""
        if self.tier > accept_tier:
            raise GradingError(
                f"This system allows tier {self.tier} only ({TIERS[self.tier]}), so nothing"
                f" graded here is official; --accept-tier {self.tier} accepts that."
            )

    def close(self) -> None:
        for judges in self._judges.values():
            judges.close()

    def grade(
        self,
        exercise: Exercise,
        intake: Intake,
        *,
        seed: int,
        lanes: int = 1,
        only: Sequence[str] = (),
        first_failure_only: bool = False,
        tell: Callable[[Result], None] = lambda result: None,
    ) -> Report:
        """Judged by `lanes` judges side by side, since checks wait more than they work.

        `tell` hears each result as it comes. Raises GradingError when the suite is broken.
        """
        started = time.monotonic()
        if intake.tampered:
            return self._refused(exercise, seed, intake)
        judges = self.judges(exercise)
        base = self.base(exercise)
        self.ready()
        with tempfile.TemporaryDirectory(
            prefix="work-", dir=self.warm.folder, ignore_cleanup_errors=True
        ) as folder:
            workspace = assemble(exercise, base, intake.files, Path(folder) / "course")
            Path(folder).chmod(0o755)
            assignment = Assignment(
                warm=self.warm.address,
                tier=self.tier,
                workspace=workspace,
                seed=seed,
                first_failure_only=first_failure_only,
                only=only,
            )
            listener = Listener(tell, self.stopping)
            heard = judges.judge(assignment, lanes, listener)
            undecided = heard.undecided(exercise) if not only and not first_failure_only else []
            if undecided and heard.finished:
                again = assignment.model_copy(update={"only": undecided})
                heard = heard.mended_by(judges.judge(again, 1, listener))
        results = [cleaned(result, workspace, self.warm.folder) for result in heard.results]
        checks = judge_checks(exercise, heard.collected, results)
        return Report(
            exercise,
            seed,
            self.tier,
            self.parts,
            checks,
            notes=[*intake.missing, *heard.notes],
            seconds=time.monotonic() - started,
            open_book=open_book(exercise, intake.files),
            partial=not heard.finished or first_failure_only or bool(only),
        )

    def _refused(self, exercise: Exercise, seed: int, intake: Intake) -> Report:
        checks = all_alike(exercise, Verdict.TAMPERED, f"{intake.tampered[0]}, so nothing was run.")
        return Report(exercise, seed, self.tier, [], checks, notes=intake.tampered)


def cleaned(result: Result, *workplaces: Path) -> Result:
    """What a student and others may read of it."""
    clean, printed = without_places(*workplaces), result.printed
    if len(printed) >= MAX_PRINTED and "\n" in printed:
        printed = printed.partition("\n")[2]  # the rest of a line, and so maybe of a path
    return replace(
        result,
        said=clean(result.said),
        todo=clean(result.todo),
        exchanges=clean(result.exchanges),
        asked=clean(result.asked),
        printed=clean(printed),
    )


@dataclass(frozen=True)
class Listener:
    """Who wants to hear results, and who may end it all."""

    tell: Callable[[Result], None]
    stopping: threading.Event


class Judges:
    """A pytest process that has read an exercise's suite, and forks judges who know it."""

    def __init__(self, exercise: Exercise, warm: WarmParent) -> None:
        self._exercise = exercise
        self._printed = tempfile.TemporaryFile(dir=warm.folder)  # noqa: SIM115 - `close` does
        memory = {MEMORY: str(warm.memory)} if warm.memory else {}
        self._turn = threading.Lock()
        self._asking, asked = socket.socketpair()
        with asked:
            self._process = subprocess.Popen(
                command(exercise),
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={
                    **judges_environment(),
                    **memory,
                    VARIABLE: str(asked.fileno()),
                    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                    "TMPDIR": str(warm.folder),  # what a judge that is ended leaves goes, too
                },
                pass_fds=[asked.fileno()],
                start_new_session=True,
            )

    @property
    def gone(self) -> bool:
        return self._process.poll() is not None

    def judge(self, assignment: Assignment, lanes: int, listener: Listener) -> "Heard":
        """What they say about one submission. Raises GradingError when the suite is broken."""
        pipes = [(os.pipe(), os.pipe()) for _ in range(lanes)]
        theirs = [Lane(results[1], printed[1]) for results, printed in pipes]
        with self._turn, suppress(OSError):  # then they have gone, and say nothing
            send(self._asking, assignment, theirs)
        for lane in theirs:
            os.close(lane.results)
            os.close(lane.printed)
        heard = [Heard() for _ in pipes]
        listen(
            {results[0]: each for (results, _), each in zip(pipes, heard, strict=True)},
            {printed[0]: each for (_, printed), each in zip(pipes, heard, strict=True)},
            self._exercise.seconds + GRACE_SECONDS,
            listener,
        )
        all_heard = merged(heard)
        if not all_heard.collected and not all_heard.notes:
            raise GradingError(
                f"The suite of {self._exercise.key} is broken:\n{self._last_words()}"
            )
        return all_heard

    def _last_words(self) -> str:
        end(self._process.pid)
        self._process.wait()
        self._printed.seek(0)
        return self._printed.read()[-MAX_PRINTED:].decode(errors="backslashreplace").strip()

    def close(self) -> None:
        self._asking.close()
        end(self._process.pid)
        self._process.wait()
        self._printed.close()


def command(exercise: Exercise) -> list[str]:
    python = [sys.executable, "-B", "-m", "pytest", "-q", "-s", "--tb=short", "--assert=plain"]
    settings = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    settings += ["-p", "anyio"]  # the only one of the installed plugins that a suite needs
    if exercise.private:  # there is no conftest.py beside it that would say so
        settings += ["-p", "grader.judge.plugin"]
        settings += ["-p", "grader.judge.upstreams"] if exercise.track == "advanced" else []
    return [*python, *settings, *map(str, exercise.suite)]


def judges_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}


@dataclass
class Heard:
    """What a judge said before it ended, or was ended."""

    collected: dict[str, int] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    finished: bool = False
    notes: list[str] = field(default_factory=list)
    process: int = 0
    printed: bytes = b""
    _pending: bytes = b""

    def undecided(self, exercise: Exercise) -> list[str]:
        """The checks that are worth a second try."""
        checks = judge_checks(exercise, self.collected, self.results)
        return [check.id for check in checks if check.verdict is Verdict.COULD_NOT_TELL]

    def mended_by(self, second: "Heard") -> "Heard":
        kept = [result for result in self.results if result.check not in second.collected]
        return replace(
            self,
            collected={**self.collected, **second.collected},
            results=[*kept, *second.results],
            finished=second.finished,
        )

    def hear(self, data: bytes, tell: Callable[[Result], None]) -> None:
        *whole, self._pending = (self._pending + data).split(b"\n")
        for line in whole:
            self.note(json.loads(line), tell)

    def note(self, message: dict[str, Any], tell: Callable[[Result], None]) -> None:
        if "collected" in message:
            self.collected = message["collected"]
        elif "result" in message:
            result = Result(
                **{**message["result"], "verdict": Verdict(message["result"]["verdict"])}
            )
            self.results.append(result)
            tell(result)
        elif "process" in message:
            self.process = message["process"]
        elif "finished" in message:
            self.finished = True


def merged(lanes: Sequence[Heard]) -> Heard:
    return Heard(
        collected={id_: count for lane in lanes for id_, count in lane.collected.items()},
        results=[result for lane in lanes for result in lane.results],
        finished=all(lane.finished for lane in lanes),
        notes=sorted({note for lane in lanes for note in lane.notes}),
    )


def listen(
    results: Mapping[int, Heard], printed: Mapping[int, Heard], seconds: float, listener: Listener
) -> None:
    """Until all judges have ended. Those who take too long are ended; what they said counts.

    Keys are the ends of pipes to read from, which are closed.
    """
    try:
        _listen(results, printed, seconds, listener)
    except BaseException:  # somebody pressed Ctrl-C
        for heard in results.values():
            end(heard.process)
        raise
    finally:
        for fd in (*results, *printed):
            os.close(fd)


def _listen(
    results: Mapping[int, Heard], printed: Mapping[int, Heard], seconds: float, listener: Listener
) -> None:
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for fd in (*results, *printed):
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            if listener.stopping.is_set() or time.monotonic() > deadline:
                for heard in results.values():
                    heard.notes.append("grading was stopped before every check had its turn")
                    end(heard.process)
                break
            for key, _ in selector.select(LOOK_SECONDS):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fd in results:
                    results[key.fd].hear(data, listener.tell)
                else:
                    printed[key.fd].printed = (printed[key.fd].printed + data)[-MAX_PRINTED:]


def end(process: int) -> None:
    """It, and what it has started; 0 is nobody."""
    if process:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


@contextmanager
def opened(tracks: Sequence[str] = TRACKS) -> Iterator[Grader]:
    """Whose exercises are of these tracks: what they import is ready, and nothing else.

    Raises GradingError when this machine cannot grade.
    """
    with ExitStack() as stack:
        try:
            grader = Grader(stack.enter_context(WarmParent(tracks=tracks)))
            stack.callback(grader.close)
            yield grader
        except SandboxProblem as exc:
            raise GradingError(f"This machine cannot run submissions: {exc}.") from exc
