"""One submission's keeper: builds the walls, starts it behind them, and ends it with all it made.

It is forked from the warm parent, one a run. Outside of the walls itself, it never reads a byte
that the submission wrote: what it hears is the judge, and what the kernel says of its child.
"""

import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from grader.sandbox import inside, jail, kernel
from grader.sandbox.cgroups import ControlGroup
from grader.sandbox.order import Line, Order
from grader.sandbox.tree import Tree

PORT = 8000
FIRST_DOOR = 8100
WATCH_SECONDS = 0.1
FAILED = b"!"
"""Before the words of a process that could not build its walls."""
FIRST_UID = 0x60000000
"""Nobody has such a user number, and each run has its own."""


class Stopped(Exception):
    """The warm parent is going, so its keepers go, too."""


def stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


class Keeper:
    """Serves one judge over `line`, for one run."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._over_limit: str | None = None

    def serve(self) -> None:
        (message,) = self._line.receive()
        order = Order.from_message(message)
        output = self._line.take_fd()
        try:
            self._start(order, output)
        except OSError as exc:
            self._line.send({"event": "ended", "problem": f"{exc.strerror or exc}"})
            return
        os.close(output)
        try:
            self._end(self._watch(order))
        except Stopped:
            self._end(b"")

    # --- the start

    def _start(self, order: Order, output: int) -> None:
        isolated, root = order.tier == 1, os.getuid() == 0
        self._group = ControlGroup(f"grader-{os.getpid()}", order.limits)
        if isolated:
            _separate(root)
        elif sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._listener = _listen(PORT if isolated else 0)
        self._address = self._listener.getsockname()
        wanted = range(len(order.forwards))
        doors = [_listen(FIRST_DOOR + number if isolated else 0) for number in wanted]
        order = _told_where(order, doors, self._address[1])
        parts = _parts(order.tier, root, self._group)
        self._line.send(
            {"event": "listening", "doors": len(doors), "port": self._address[1], "parts": parts},
            [door.fileno() for door in doors],
        )
        for door in doors:
            door.close()
        self._fork(order, output, FIRST_UID + os.getpid() if root and order.tier < 3 else 0)

    def _fork(self, order: Order, output: int, uid: int) -> None:
        self._ready, ready = os.pipe()
        self._result, result = os.pipe()
        held, go = os.pipe()
        scaffold = Path(tempfile.mkdtemp(prefix="grader-root-")) if order.tier == 1 else None
        self._pid = os.fork()
        if not self._pid:
            os.close(go)
            os.read(held, 1)
            _first_process(order, self._listener, ready, output, result, uid, scaffold)
        for fd in (ready, result, held):
            os.close(fd)
        self._listener.close()
        self._group.add(self._pid)
        self._scaffold = scaffold
        self._tree = Tree(self._pid, in_namespace=order.tier == 1)
        os.close(go)

    # --- while it runs

    def _watch(self, order: Order) -> bytes:
        """Until it ends, or the judge has no more use for it. How it ended, if that is known."""
        with selectors.DefaultSelector() as selector:
            for source in (self._line, self._ready, self._result):
                selector.register(source, selectors.EVENT_READ)
            memory = None if "memory" in self._group.parts else order.limits.memory
            result, wanted = b"", True
            while wanted:
                for key, _ in selector.select(WATCH_SECONDS):
                    if key.fileobj is self._line:
                        wanted = self._obey()
                    elif key.fileobj == self._ready:
                        selector.unregister(self._ready)
                        if os.read(self._ready, 16):
                            self._line.send({"event": "ready"})
                    else:
                        result, wanted = os.read(self._result, 256), False
                self._tree.look()
                if memory and self._tree.memory() > memory:
                    self._over_limit, wanted = "memory", False
        return result

    def _obey(self) -> bool:
        """Do what the judge says; False when he has no more use for the run."""
        try:
            messages = self._line.receive()
        except (EOFError, ConnectionError):
            return False
        for message in messages:
            if message["do"] == "connect":
                self._connect(message.get("receive_buffer"))
            elif message["do"] == "signal":
                self._tree.signal(message["number"])
        return True

    def _connect(self, receive_buffer: int | None) -> None:
        """A connection to the submission, made where it lives and used where the judge lives."""
        with socket.socket() as connection:
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1024)
            connection.settimeout(2)
            try:
                connection.connect(self._address)
            except OSError as exc:
                self._line.send({"event": "refused", "why": exc.strerror or str(exc)})
            else:
                connection.setblocking(True)
                self._line.send({"event": "connected"}, [connection.fileno()])

    # --- the end

    def _end(self, result: bytes) -> None:
        self._tree.kill()
        if self._group.ran_out_of_memory:
            self._over_limit = "memory"
        status = struct.unpack("i", result)[0] if len(result) == 4 else None
        ended: dict[str, Any] = {"event": "ended", "status": status, "limit": self._over_limit}
        if status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            ended["limit"] = "cpu time"
        if result.startswith(FAILED):
            ended["problem"] = result.removeprefix(FAILED).decode(errors="replace")
        with contextlib.suppress(OSError):
            self._line.send(ended)
        self._group.remove()
        if self._scaffold:
            self._scaffold.rmdir()


def _separate(root: bool) -> None:
    """Namespaces of its own; as an ordinary user, that takes a user namespace first."""
    uid, gid = os.getuid(), os.getgid()
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    kernel.unshare(flags if root else flags | kernel.CLONE_NEWUSER)
    if not root:
        kernel.map_own_user(uid, gid)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a new identity forgets it
    kernel.raise_loopback()


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=2048)


def _told_where(order: Order, doors: list[socket.socket], port: int) -> Order:
    """The order, with the ports and the writable folder in its environment."""
    told = {
        forward.variable: forward.value.replace("{port}", str(door.getsockname()[1]))
        for forward, door in zip(order.forwards, doors, strict=True)
    }
    home = "/tmp" if order.tier == 1 else order.workspace  # noqa: S108 - the private one
    data = {"DATA_DIR": "{data}"} if order.writable else {}
    always = {"HOME": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PORT": str(port)}
    environment = {**always, **data, **order.environment, **told}
    if order.writable:
        where = str(jail.DATA) if order.tier == 1 else order.writable
        environment = {name: text.replace("{data}", where) for name, text in environment.items()}
    return replace(order, environment=environment)


def _parts(tier: int, root: bool, group: ControlGroup) -> list[str]:
    namespaces = ["net", "mount", "pid", "ipc", "uts", *([] if root else ["user"])]
    parts = {1: [f"namespaces ({', '.join(namespaces)})"], 2: [], 3: []}[tier]
    parts += ["own user"] if root and tier < 3 else []
    parts += ["no capabilities"] if tier == 1 else []
    parts += ["no_new_privs"] if tier < 3 else []
    parts += [f"cgroup ({', '.join(group.parts)})"] if group.parts else []
    return [*parts, "resource limits", "clean environment"]


def _first_process(
    order: Order,
    listener: socket.socket,
    ready: int,
    output: int,
    result: int,
    uid: int,
    scaffold: Path | None,
) -> NoReturn:
    """Process 1 of the new namespace, deaf to all signals from inside: with it, all others end."""
    try:
        if order.tier < 3:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        if scaffold:
            jail.enter(scaffold, Path(order.workspace), order.writable, order.limits.file_bytes)
        os.setsid()
        child = os.fork()
        if not child:
            _become(order, listener, ready, output, uid)
        os.closerange(0, result)
        os.closerange(result + 1, inside.NEWEST_FD)
        while True:
            pid, status = os.wait()
            if pid == child:
                os.write(result, struct.pack("i", status))
                break
    except OSError as exc:
        os.write(result, FAILED + f"{exc.strerror or exc} ({exc.filename})".encode()[:200])
    finally:
        os._exit(0)


def _become(order: Order, listener: socket.socket, ready: int, output: int, uid: int) -> NoReturn:
    code = 1
    try:
        code = inside.run(order, listener, ready, output, uid)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
        if isinstance(exc.code, str):  # as Python does at its end, which this process never sees
            print(exc.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - it is on its way out, and says why
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code & 0xFF)
