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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.catalogue import ROOT, Exercise, GradingError
from grader.judge.assignment import VARIABLE, Assignment
from grader.report import Report, Result, Verdict, all_alike, judge_checks
from grader.sandbox.client import SandboxProblem, WarmParent, strongest_walls
from grader.workspace import Intake, assemble, make_base

GRACE_SECONDS = 30
MAX_PRINTED = 4000
NOT_PASSED_ON = ("OPENAI_", "LANGSMITH_", "LANGCHAIN_", "PYTEST_", "PYTHON", "COVERAGE")


@dataclass
class Grader:
    """What many submissions share: the warm parent, and each exercise's base. See `opened`."""

    warm: WarmParent
    tier: int = 0
    parts: Sequence[str] = ()
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
        first_failure_only: bool = False,
    ) -> Report:
        """Judged by `lanes` judges side by side, since checks wait more than they work.

        Raises GradingError when the suite itself is broken.
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
            heard = side_by_side(exercise, assignment, lanes)
        checks = judge_checks(exercise, heard.collected, heard.results)
        return Report(
            exercise,
            seed,
            self.tier,
            self.parts,
            checks,
            notes=[*intake.missing, *heard.notes],
            seconds=time.monotonic() - started,
            stopped_early=not heard.finished or first_failure_only,
        )

    def _refused(self, exercise: Exercise, seed: int, intake: Intake) -> Report:
        checks = all_alike(exercise, Verdict.TAMPERED, f"{intake.tampered[0]}, so nothing was run.")
        return Report(exercise, seed, self.tier, [], checks, notes=intake.tampered)


def side_by_side(exercise: Exercise, assignment: Assignment, lanes: int) -> "Heard":
    """What several judges heard, each of every so-manieth check."""
    ids = [check.id for check in exercise.checks]
    shares = [ids[lane::lanes] for lane in range(min(lanes, len(ids)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        heard = pool.map(
            lambda share: judge(exercise, assignment.model_copy(update={"only": share})), shares
        )
        return merged(list(heard))


def judge(exercise: Exercise, assignment: Assignment) -> "Heard":
    """Run one judge to its end. Raises GradingError when the suite is broken."""
    read_end, write_end = os.pipe()
    told = assignment.model_copy(update={"results": write_end})
    process = subprocess.Popen(
        command(exercise),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**judges_environment(), VARIABLE: told.model_dump_json()},
        pass_fds=[write_end],
        start_new_session=True,
    )
    os.close(write_end)
    with process:
        heard = listen(process, read_end, exercise.seconds + GRACE_SECONDS)
    if not heard.collected and not heard.finished_well:
        raise GradingError(f"The suite of {exercise.id} is broken:\n{heard.printed.strip()}")
    return heard


def command(exercise: Exercise) -> list[str]:
    python = [sys.executable, "-B", "-m", "pytest", "-q", "--tb=short", "--assert=plain"]
    settings = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
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

    def note(self, message: dict[str, Any]) -> None:
        if "collected" in message:
            self.collected = message["collected"]
        elif "result" in message:
            result = message["result"]
            self.results.append(Result(**{**result, "verdict": Verdict(result["verdict"])}))
        elif "finished" in message:
            self.finished, self.finished_well = True, message["finished"] in (0, 1)


def merged(lanes: Sequence[Heard]) -> Heard:
    return Heard(
        collected={id_: count for lane in lanes for id_, count in lane.collected.items()},
        results=[result for lane in lanes for result in lane.results],
        finished=all(lane.finished for lane in lanes),
        finished_well=all(lane.finished_well for lane in lanes),
        notes=[note for lane in lanes for note in lane.notes],
    )


def listen(process: subprocess.Popen[bytes], read_end: int, seconds: float) -> Heard:
    """Until the judge has ended. One that takes too long is ended; what it said still counts."""
    heard, pending, printed = Heard(), b"", b""
    deadline = time.monotonic() + seconds
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(read_end, selectors.EVENT_READ)
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.get_map():
            if (left := deadline - time.monotonic()) <= 0:
                heard.notes.append(f"The judge was ended after {seconds:g} seconds.")
                end(process)
                break
            for key, _ in selector.select(left):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fd == read_end:
                    *whole, pending = (pending + data).split(b"\n")
                    for line in whole:
                        heard.note(json.loads(line))
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
