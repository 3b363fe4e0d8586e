"""A service under test: a process of its own, on a port from the system, its output collected.

Everything runs from a checkout made of links, so that nobody's `.env` decides how a test goes.
"""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import psutil

from shared.offline_model import OfflineModel

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 15.0
NOT_PASSED_ON = re.compile(
    r"OPENAI_|LANG|CORS_|PYTHON|UVICORN_|(HOST|PORT|REQUEST_TIMEOUT|TURN_WAIT|MAX_SESSIONS)$"
)
TRACEBACK = "Traceback (most recent call last)"
KEY = "sk-test-5f2d9c81e7a640b3"
"""The key that services get: no response may ever show it."""


def make_checkout(folder: Path) -> Path:
    """`folder` with links to the packages of this repository, and nothing else."""
    for package in ("shared", "medium", "advanced"):
        (folder / package).symlink_to(ROOT / package, target_is_directory=True)
    return folder


def environment(more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not NOT_PASSED_ON.match(name)}
    return {**inherited, "PYTHONUNBUFFERED": "1", **more}


class Process:
    """`python ARGUMENTS...` in `folder`. Leaving the block stops it, and what it started."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, more: Mapping[str, str] | None = None
    ) -> None:
        self.failure_expected = False
        """Whether a traceback in the output is what the test is about."""
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment(more or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the tests' terminal is not meant for it
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:
            with self._changed:
                self._lines.append(line.decode(errors="replace"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for_output(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """The first match in the output, as soon as it is there."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, "".join(self._lines))

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, timeout)
            match = found()
        assert match, f"{pattern!r} was not printed within {timeout} s; this was:\n{self.output}"
        return match

    def memory(self) -> int:
        """Bytes of resident memory."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def wait(self, timeout: float = START_SECONDS) -> int:
        """The exit code, once it has gone and all of its output is here."""
        code = self._child.wait(timeout)
        self._reader.join(timeout)
        return code

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self.wait()
        assert self._child.stdout
        self._child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert self.failure_expected or TRACEBACK not in self.output, self.output


class Service(Process):
    """An application under uvicorn. Made ready: it answers as soon as the object is there."""

    def __init__(
        self,
        folder: Path,
        more: Mapping[str, str] | None = None,
        app: str = "medium.app.main:app",
    ) -> None:
        super().__init__(
            ["-m", "uvicorn", app, "--port", "0", "--backlog", "2048", "--no-access-log"],
            folder,
            more,
        )
        try:
            match = self.wait_for_output(r"running on http://127\.0\.0\.1:(\d+)", START_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.port = int(match[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.AsyncClient:
        """A client that waits longer than any deadline under test, for any number of answers."""
        return httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(30.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
            verify=ssl.SSLContext(
                ssl.PROTOCOL_TLS_CLIENT
            ),  # no certificates to load: it takes 0.1 s
        )

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A bare connection; with a small buffer the service soon has nowhere to write to."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1024)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        return connection


def with_model(model: OfflineModel, **more: str) -> dict[str, str]:
    """The environment of a service whose model this is."""
    return {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": KEY, **more}


@contextmanager
def served(folder: Path, **more: str) -> Iterator[tuple[Service, OfflineModel]]:
    """The medium service and its model."""
    with OfflineModel(api_key=KEY) as model, Service(folder, with_model(model, **more)) as service:
        yield service, model
