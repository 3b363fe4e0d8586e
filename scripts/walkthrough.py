"""Read a page as a learner does: type every command, run every snippet, compare what is printed.

The rules for pages are in `CONTRIBUTING.md`. Addresses are moved to free ports, so that a page
may say 8000 while something else listens there.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Self

from scripts.markdown import SHELLS, Command, Fence, Page

ADDRESS = re.compile(r"(\blocalhost:|\b127\.0\.0\.1:|\bPORT=|--port[ =])(\d+)\b")
ASSIGNS = re.compile(r"([A-Z_]+)=\S*(\$\(.*\))?", re.DOTALL)
SERVES = re.compile(r"\bmake (medium|advanced|serve)\b|\buvicorn\b|-m shared\.")
RUNS_ON = re.compile(r"-m exercises\.\S+\.(collector|postgres)\b")
"""Beside the service, until Ctrl-C, wherever it listens; it has said something when it is ready."""
TOLD_BEFORE = re.compile(r"\b([A-Z_]+)=\.\.\.")
# These take long or run this very page; `make -n` still tells whether they are there.
REHEARSED = re.compile(r"make (test|check|bench|doctor|lock|format|clean)\b")
DEFAULT_PORT = 8000
DEFAULT_SERVER = "make medium"
PATIENCE = 60.0  # seconds: for a command to end, for a server to listen
OPENING_WORDS = 20.0  # seconds: for a server that listens to have said what the page shows
LAST_WORDS = 15.0  # seconds: for a server to end after Ctrl-C


class Misled(Exception):
    """A page says something that is not so."""


class Walkthrough:
    """One reader in one folder. Leaving stops every server that the page started."""

    def __init__(self, root: Path, default_server: str = DEFAULT_SERVER) -> None:
        self.root = root
        self.default_server = default_server
        self.ports: dict[int, int] = {}
        self.servers: dict[int, Server] = {}
        self.beside: list[Server] = []
        self.variables = ""
        """What the reader's shell would remember, as commands that say so again."""
        self._state = tempfile.TemporaryDirectory()  # nobody's users, keys and sessions

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._state, ExitStack() as stops:
            for server in [*self.beside, *self.servers.values()]:
                stops.callback(server.stop)

    def read(self, page: Page) -> None:
        """Raises Misled, naming the line, at the first thing that is not as written."""
        for index, fence in enumerate(page.fences):
            if fence.language in SHELLS - {"console"}:
                with _naming(page, fence.line):
                    raise Misled("commands go in a console block, which is run, or a text block")
            for command in fence.commands():
                with _naming(page, command.line):
                    self._type(command)
            if fence.language == "python" and not fence.illustration and not fence.excerpt_of:
                with _naming(page, fence.line):
                    self._execute(fence.text, page.fences[index + 1 :])

    def _type(self, command: Command) -> None:
        text = TOLD_BEFORE.sub(self._told_before, self._relocated(command.text))
        if RUNS_ON.search(text):
            self.beside.append(Server(text, self.root, None, self._environment()))
            self.beside[-1].await_port()
        elif SERVES.search(text):
            named = ADDRESS.findall(command.text)  # the last one, since settings come first
            server = self._serve(text, int(named[-1][1]) if named else DEFAULT_PORT)
            _wait_until(lambda: self._agrees(command.output, server.printed()), OPENING_WORDS)
            self._compare(command.output, server.printed())
        elif REHEARSED.match(text):
            self._run(["bash", "-c", text.replace("make", "make -n", 1)])
        elif variable := ASSIGNS.fullmatch(command.text):
            self._serve_if_called(command.text)
            self.variables += self._bash(f"{text}\ndeclare -p {variable[1]}")
        else:
            self._serve_if_called(command.text)
            self._compare(command.output, self._bash(text))

    def _told_before(self, variable: re.Match[str]) -> str:
        """`NAME=...` stands for the line that another terminal shows."""
        for server in reversed(self.beside):
            if line := re.search(rf"^{variable[1]}=.*$", server.printed(), re.MULTILINE):
                return line[0]
        raise Misled(f"nothing has printed {variable[1]}")

    def _bash(self, text: str) -> str:
        return self._run(["bash", "-c", f"{self.variables}{text}"])

    def _execute(self, snippet: str, later: tuple[Fence, ...]) -> None:
        self._serve_if_called(snippet)
        printed = self._run([sys.executable, "-"], stdin=self._relocated(snippet))
        if later and later[0].language == "output":
            self._compare(later[0].text, printed)

    def _run(self, command: list[str], stdin: str = "") -> str:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise Misled(f"exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def _compare(self, expected: str, printed: str) -> None:
        if not self._agrees(expected, printed):
            raise Misled(f"expected\n{expected}\nand got\n{self._restored(printed)}")

    def _environment(self) -> dict[str, str]:
        """A learner's: no key, not even one in this folder's `.env`, and no `make` above."""
        ours = re.compile(r"OPENAI_|(HOST|PORT|MAKEFLAGS|MFLAGS|MAKELEVEL|MAKEOVERRIDES|ARGS)$")
        kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
        return {**kept, "OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", "STATE_DIR": self._state.name}

    def _agrees(self, expected: str, printed: str) -> bool:
        """A page may leave output out. Where it shows some, `...` stands for anything."""
        printed = _tidy(self._restored(printed))
        return not expected.strip() or OutputChecker().check_output(
            _tidy(expected), printed, ELLIPSIS
        )

    def _serve_if_called(self, text: str) -> None:
        """A page may talk to the service without having started it."""
        called = {int(address[2]) for address in ADDRESS.finditer(text)}
        if DEFAULT_PORT in called and DEFAULT_PORT not in self.servers:
            self._serve(self.default_server, DEFAULT_PORT)

    def _serve(self, text: str, port: int) -> "Server":
        if port in self.servers:
            self.servers.pop(port).stop()
        environment = self._environment() | {"PORT": str(self._port(port))}
        server = self.servers[port] = Server(text, self.root, self._port(port), environment)
        server.await_port()
        return server

    def _port(self, documented: int) -> int:
        if documented not in self.ports:
            self.ports[documented] = _free_port()
        return self.ports[documented]

    def _relocated(self, text: str) -> str:
        return ADDRESS.sub(lambda address: f"{address[1]}{self._port(int(address[2]))}", text)

    def _restored(self, text: str) -> str:
        for documented, actual in self.ports.items():
            text = re.sub(rf"\b{actual}\b", str(documented), text)
        return text


class Server:
    """A command that does not end by itself, in a process group of its own."""

    def __init__(
        self, text: str, root: Path, port: int | None, environment: dict[str, str]
    ) -> None:
        self.text = text
        self.port = port
        self.log = tempfile.TemporaryFile("a+", encoding="utf-8")  # noqa: SIM115 - closed by stop()
        self.process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=root,
            env={**environment, "PYTHONUNBUFFERED": "1"},  # as at a terminal
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def printed(self) -> str:
        self.log.seek(0)  # the server appends, so this does not move its place
        return self.log.read()

    def await_port(self) -> None:
        _wait_until(lambda: self.process.poll() is not None or self._is_ready(), PATIENCE)
        if self.process.poll() is not None or not self._is_ready():
            raise Misled(f"`{self.text}` does not listen on {self.port}\n{self.printed()}")

    def stop(self) -> None:
        """As Ctrl-C does."""
        with self.log:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGINT)
            _wait_until(lambda: self.process.poll() is not None and not self._listens(), LAST_WORDS)
            if self.process.poll() is None or self._listens():
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise Misled(f"`{self.text}` does not end on Ctrl-C")
            if "Traceback" in self.printed():
                raise Misled(f"`{self.text}` ends in a traceback\n{self.printed()}")

    def _is_ready(self) -> bool:
        return bool(self.printed().strip()) if self.port is None else self._listens()

    def _listens(self) -> bool:
        if self.port is None:
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def _naming(page: Page, line: int) -> Iterator[None]:
    try:
        yield
    except (Misled, subprocess.TimeoutExpired) as exc:
        raise Misled(f"{page.path.name}:{line}: {exc}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tidy(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.strip().splitlines())


def _wait_until(happened: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
