"""The judge's side of the sandbox: a warm parent, and the runs it was asked for."""

import contextlib
import os
import queue
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grader.catalogue import TRACKS
from grader.sandbox.memory import give_back, memory_for
from grader.sandbox.order import Line, Order
from grader.words import counted

ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 10
LAST_WORDS_SECONDS = 1.0
KEPT_OUTPUT = 64 * 1024
TIERS = {
    1: "isolated",
    2: "confined, not isolated: this system allows no namespaces",
    3: "NO SECURITY BOUNDARY: process, limits and clean environment only",
}


class SandboxProblem(Exception):
    """The machinery failed, and nothing is known about the submission."""


class Refused(ConnectionError):
    """The submission takes no connection."""


@dataclass(frozen=True)
class Ended:
    """How a run came to its end: an exit code, a signal (negative), or a limit."""

    code: int | None
    limit: str | None = None

    def __str__(self) -> str:
        if self.limit:
            return f"it went over its limit of {self.limit}"
        if self.code is None:
            return "it was killed"
        if self.code < 0:
            return f"it was ended by {signal.Signals(-self.code).name}"
        return f"it ended with exit code {self.code}"


class Output:
    """What a submission printed: the beginning and the end, if it was long."""

    def __init__(self) -> None:
        self.total = 0
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = KEPT_OUTPUT // 2 - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[max(room, 0) :])[-KEPT_OUTPUT // 2 :]

    @property
    def text(self) -> str:
        left_out = self.total - len(self._head) - len(self._tail)
        gap = f"\n[{counted(left_out, 'byte')} left out]\n".encode() if left_out else b""
        return (bytes(self._head) + gap + bytes(self._tail)).decode(errors="backslashreplace")


class Run:
    """One submission at work. A thread listens to it and to its keeper."""

    def __init__(self, line: Line, order: Order) -> None:
        self.output = Output()
        self.ended: Ended | None = None
        self.problem: str | None = None
        self.doors: list[socket.socket] = []
        self.parts: list[str] = []
        self._limits = order.limits
        self._line = line
        self._changed = threading.Condition()
        self._ready = False
        self._stopping = False
        self._signalled = False
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._asking = threading.Lock()
        self._read_end, write_end = os.pipe()
        try:
            line.send(order.as_message(), [write_end])
        finally:
            os.close(write_end)
        self._thread = threading.Thread(target=self._listen, name="sandbox", daemon=True)
        self._thread.start()
        listening = self._reply()
        self.parts = listening["parts"]
        # Whoever serves behind a door closes it.
        self.doors = [socket.socket(fileno=line.take_fd()) for _ in range(listening["doors"])]

    # --- asking

    def wait_until_ready(self, timeout: float) -> bool:
        """Whether it answers; False when it has ended, or not begun within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self.ended or self.problem, timeout)
            self._check()
            return self._ready and self.ended is None

    def wait_until_ended(self, timeout: float) -> Ended | None:
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self.problem, timeout)
            self._check()
            return self.ended

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection to it, blocking. Raises Refused, or SandboxProblem if nobody is there."""
        with self._asking:
            if self.ended:
                raise Refused(str(self.ended))
            with contextlib.suppress(ConnectionError):
                self._line.send({"do": "connect", "receive_buffer": receive_buffer})
            reply = self._reply()
            if reply["event"] != "connected":
                raise Refused(reply["why"])
            return socket.socket(fileno=self._line.take_fd())

    def signal(self, number: int) -> None:
        """Send it a signal; without effect when it has ended. If it ends now, it was told to."""
        self._signalled = self._signalled or self.ended is None
        with contextlib.suppress(OSError):
            self._line.send({"do": "signal", "number": int(number)})

    @property
    def ended_by_itself(self) -> bool:
        return self.ended is not None and not (self._stopping or self._signalled)

    def stop(self) -> None:
        """End it, and return when nothing of it is left."""
        self._stopping = self.ended is None
        with contextlib.suppress(OSError):
            self._line.connection.shutdown(socket.SHUT_WR)
        self._thread.join(ANSWER_SECONDS)
        if self._thread.is_alive():
            raise SandboxProblem("a submission's keeper does not end; start the grader again")
        self._line.close()

    # --- listening, in the thread

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._line, selectors.EVENT_READ)
            selector.register(self._read_end, selectors.EVENT_READ)
            patience: float | None = None
            while selector.get_map():
                ready = selector.select(patience)
                for key, _ in ready:
                    if key.fileobj is self._line and self._hear():
                        selector.unregister(self._line)
                        patience = LAST_WORDS_SECONDS
                    elif key.fileobj == self._read_end and self._read():
                        selector.unregister(self._read_end)
                if not ready:
                    break  # the keeper has ended; somebody who got away holds the pipe
        os.close(self._read_end)

    def _hear(self) -> bool:
        try:
            messages = self._line.receive()
        except (EOFError, OSError):
            self._note_end({"problem": "the sandbox's keeper was killed"})
            return True
        for message in messages:
            if message["event"] in ("listening", "connected", "refused"):
                self._replies.put(message)
            elif message["event"] == "ready":
                with self._changed:
                    self._ready = True
                    self._changed.notify_all()
            else:
                self._note_end(message)
        return False

    def _read(self) -> bool:
        data = os.read(self._read_end, 65536)
        self.output.add(data)
        if self.output.total > self._limits.output_bytes:
            self._note_end({"status": None, "limit": "output"})
            with contextlib.suppress(OSError):
                self._line.connection.shutdown(socket.SHUT_WR)
            return True
        return not data

    def _note_end(self, message: Mapping[str, Any]) -> None:
        with self._changed:
            if not (self.ended or self.problem):
                self.problem = message.get("problem")
                if self.problem is None:
                    status = message["status"]
                    code = None if status is None else os.waitstatus_to_exitcode(status)
                    self.ended = Ended(code, message["limit"])
            self._changed.notify_all()
        why = self.problem or str(self.ended)
        self._replies.put({"event": "gone", "why": why})

    def _reply(self) -> dict[str, Any]:
        try:
            reply = self._replies.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise SandboxProblem("the sandbox's keeper does not answer") from None
        self._check()
        return reply

    def _check(self) -> None:
        if self.problem:
            raise SandboxProblem(self.problem)


class WarmParent:
    """A process to fork submissions from. Leaving the block ends it, and all of them with it."""

    def __init__(self, folder: Path | None = None, tracks: Sequence[str] = TRACKS) -> None:
        self._tracks = tracks
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="grader-"))
        self.folder.chmod(0o711)  # a submission may be another user, who has to get to its files
        self.address = self.folder / "warm.sock"
        self.memory: Path | None = None
        """For many files that are soon gone, where there is plenty of it."""
        self._is_warm = False

    def __enter__(self) -> Self:
        self.memory = memory_for(self.folder) if self._own else None
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.address))
            self.address.chmod(0o600)
            listener.listen(64)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-s", "-m", "grader.sandbox.warm"),
                    str(listener.fileno()),
                    str(self.folder),  # so that a list of processes says whose they are
                    *self._tracks,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
                env={"PYTHONPATH": str(ROOT), "LANGGRAPH_STRICT_MSGPACK": "true"},
                pass_fds=[listener.fileno()],
                start_new_session=True,  # a Ctrl-C at the terminal is for the grader to act upon
            )
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gone(self) -> bool:
        return self._process.poll() is not None

    def wait_until_warm(self) -> None:
        """However long that takes on a busy machine: it says that it is warm, or it ends."""
        assert self._process.stdout
        if not self._is_warm:
            self._is_warm = self._process.stdout.readline() == b"warm\n"
        if not self._is_warm:
            ended = Ended(self._process.wait())
            raise SandboxProblem(f"the warm parent did not start: {ended}; its words are above")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        if not self._is_warm:
            self._process.kill()  # nobody depends on it yet, and it may take a second to listen
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self.address.unlink(missing_ok=True)
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)
            give_back(self.folder)


def open_run(address: Path, order: Order) -> Run:
    """Ask the warm parent at `address` for a run."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
        return Run(Line(connection), order)
    except OSError as exc:
        connection.close()
        raise SandboxProblem(f"the warm parent is gone ({exc.strerror or exc})") from exc


@dataclass(frozen=True)
class Walls:
    """What stands between a submission and this machine."""

    tier: int
    parts: tuple[str, ...]


def strongest_walls(address: Path) -> Walls:
    """The best that this system lets us build, found by building them."""
    with tempfile.TemporaryDirectory(prefix="grader-probe-") as nothing:
        Path(nothing).chmod(0o755)  # whoever runs inside is somebody else
        for tier in (1, 2, 3) if sys.platform == "linux" else (3,):
            order = Order(tier=tier, workspace=nothing, module="this")
            with contextlib.suppress(SandboxProblem):
                run = open_run(address, order)
                try:
                    ended = run.wait_until_ended(ANSWER_SECONDS)
                finally:
                    run.stop()
                if ended and ended.code == 0:
                    return Walls(tier, tuple(run.parts))
    raise SandboxProblem("not even an empty program runs here")
