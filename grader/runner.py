"""Grades one submission: a workspace, a judge of its own, and a report of what the judge said."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grader.catalogue import ROOT, Exercise, GradingError
from grader.judge.assignment import VARIABLE, Assignment
from grader.report import Report, Result, Verdict, all_alike, judge_checks
from grader.sandbox.client import SandboxProblem, WarmParent, strongest_walls
from grader.workspace import Intake, assemble, make_base, open_book

GRACE_SECONDS = 30
LOOK_SECONDS = 0.2
MAX_PRINTED = 4000
NOT_PASSED_ON = ("OPENAI_", "LANGSMITH_", "LANGCHAIN_", "PYTEST_", "PYTHON", "COVERAGE")


@dataclass
class Grader:
    """What many submissions share: the warm parent, and each exercise's base. See `opened`."""

    warm: WarmParent
    tier: int = 0
    parts: Sequence[str] = ()
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set it, and grading ends at once, with the results so far."""
    _bases: dict[str, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def base(self, exercise: Exercise) -> Path:
        with self._lock:
            if exercise.id not in self._bases:
                folder = self.warm.folder / "base" / exercise.id
                folder.mkdir(parents=True)
                self._bases[exercise.id] = make_base(exercise, folder)
            return self._bases[exercise.id]

    def ready(self) -> None:
        """Wait for the warm parent, and find out what walls it can build."""
        with self._lock:
            if not self.tier:
                self.warm.wait_until_warm()
                walls = strongest_walls(self.warm.address)
                self.tier, self.parts = walls.tier, walls.parts

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
        base = self.base(exercise)
        self.ready()
        with tempfile.TemporaryDirectory(prefix="work-", dir=self.warm.folder) as folder:
            workspace = assemble(exercise, base, intake.files, Path(folder) / "course")
            Path(folder).chmod(0o755)
            assignment = Assignment(
                results=0,
                warm=self.warm.address,
                tier=self.tier,
                workspace=workspace,
                exercise=exercise.folder,
                seed=seed,
                first_failure_only=first_failure_only,
            )
            ids = only or [check.id for check in exercise.checks]
            shares = [ids[lane::lanes] for lane in range(min(lanes, len(ids)))]
            listener = Listener(tell, self.stopping)
            heard = side_by_side(exercise, assignment, shares, listener)
            undecided = heard.undecided(exercise) if not only and not first_failure_only else []
            if undecided and heard.finished:
                heard = heard.mended_by(side_by_side(exercise, assignment, [undecided], listener))
        checks = judge_checks(exercise, heard.collected, heard.results)
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


@dataclass(frozen=True)
class Listener:
    """Who wants to hear results, and who may end it all."""

    tell: Callable[[Result], None]
    stopping: threading.Event


def side_by_side(
    exercise: Exercise,
    assignment: Assignment,
    shares: Sequence[Sequence[str]],
    listener: Listener,
) -> "Heard":
    """What several judges said, each of its share of the checks."""

    def lane(share: Sequence[str]) -> Heard:
        return judge(exercise, assignment.model_copy(update={"only": share}), listener)

    with ThreadPoolExecutor(len(shares)) as pool:
        return merged(list(pool.map(lane, shares)))


def judge(exercise: Exercise, assignment: Assignment, listener: Listener) -> "Heard":
    """Run one judge to its end. Raises GradingError when the suite is broken."""
    read_end, write_end = os.pipe()
    told = assignment.model_copy(update={"results": write_end})
    process = subprocess.Popen(
        command(exercise),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={
            **judges_environment(),
            VARIABLE: told.model_dump_json(),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TMPDIR": str(assignment.warm.parent),  # what a judge that is ended leaves goes, too
        },
        pass_fds=[write_end],
        start_new_session=True,
    )
    os.close(write_end)
    with process:
        heard = listen(process, read_end, exercise.seconds + GRACE_SECONDS, listener)
    if heard.is_broken:
        raise GradingError(f"The suite of {exercise.id} is broken:\n{heard.printed.strip()}")
    return heard


def command(exercise: Exercise) -> list[str]:
    python = [sys.executable, "-B", "-m", "pytest", "-q", "--tb=short", "--assert=plain"]
    settings = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    settings += ["-p", "anyio"]  # the only one of the installed plugins that a suite needs
    return [*python, *settings, *map(str, exercise.suite)]


def judges_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}


@dataclass
class Heard:
    """What a judge said before it ended, or was ended."""

    collected: dict[str, int] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    finished: bool = False
    finished_well: bool = False
    printed: str = ""
    notes: list[str] = field(default_factory=list)

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

    @property
    def is_broken(self) -> bool:
        """The suite was not even collected, though it had the time."""
        return not self.collected and not self.finished_well and not self.notes

    def note(self, message: dict[str, Any], tell: Callable[[Result], None]) -> None:
        if "collected" in message:
            self.collected = message["collected"]
        elif "result" in message:
            result = Result(
                **{**message["result"], "verdict": Verdict(message["result"]["verdict"])}
            )
            self.results.append(result)
            tell(result)
        elif "finished" in message:
            self.finished, self.finished_well = True, message["finished"] in (0, 1)


def merged(lanes: Sequence[Heard]) -> Heard:
    return Heard(
        collected={id_: count for lane in lanes for id_, count in lane.collected.items()},
        results=[result for lane in lanes for result in lane.results],
        finished=all(lane.finished for lane in lanes),
        finished_well=all(lane.finished_well for lane in lanes),
        notes=sorted({note for lane in lanes for note in lane.notes}),
    )


def listen(
    process: subprocess.Popen[bytes], read_end: int, seconds: float, listener: Listener
) -> Heard:
    """Until the judge has ended. One that takes too long is ended; what it said still counts."""
    heard, pending, printed = Heard(), b"", b""
    deadline = time.monotonic() + seconds
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(read_end, selectors.EVENT_READ)
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.get_map():
            if listener.stopping.is_set() or time.monotonic() > deadline:
                heard.notes.append("grading was stopped before every check had its turn")
                end(process)
                break
            for key, _ in selector.select(LOOK_SECONDS):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fd == read_end:
                    *whole, pending = (pending + data).split(b"\n")
                    for line in whole:
                        heard.note(json.loads(line), listener.tell)
                else:
                    printed = (printed + data)[-MAX_PRINTED:]
    os.close(read_end)
    heard.printed = printed.decode(errors="backslashreplace")
    return heard


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def opened() -> Iterator[Grader]:
    """Raises GradingError when this machine cannot grade."""
    with ExitStack() as stack:
        try:
            yield Grader(stack.enter_context(WarmParent()))
        except SandboxProblem as exc:
            raise GradingError(f"This machine cannot run submissions: {exc}.") from exc
