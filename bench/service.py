"""A service under test: an application served by uvicorn in a process of its own."""

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import psutil

from bench import process
from bench.client import Connection
from bench.model import FAKE_KEY

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 10.0  # seconds of SIGTERM before SIGKILL
POLL = 0.005  # seconds between two looks at the port
NOT_PASSED_ON = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "REDIS_")


class ServiceFailed(Exception):
    """A service did not start; the message ends with what it printed."""


World = Callable[[], AbstractContextManager[Mapping[str, str]]]
"""What has to be there beside a service while it runs, and the environment that leads there."""


@contextmanager
def needs_nothing() -> Iterator[Mapping[str, str]]:
    yield {}


@dataclass(frozen=True)
class Service:
    """`app` is uvicorn's MODULE:APP, or with `starts_itself` a module that runs by itself and reads
    PORT. `environment` is what only this one needs. A baseline is there to compare with: it has
    no targets.
    """

    name: str
    app: str
    baseline: bool = False
    starts_itself: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    world: World = needs_nothing
    token: Callable[[str], str] | None = None
    """Logs in at a running service's URL; the load sends what it returns as a bearer token."""


@dataclass
class Running:
    """A served application that has answered its health check."""

    service: Service
    url: str
    started: float  # perf_counter() just before the process was made
    _child: asyncio.subprocess.Process
    _output: IO[bytes]
    _world: ExitStack
    _headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def start(cls, service: Service, model_url: str) -> Self:
        with ExitStack() as stack:
            output = stack.enter_context(tempfile.TemporaryFile())
            world = stack.enter_context(service.world())
            port = free_port()
            started = time.perf_counter()
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *command(service, port)),
                cwd=ROOT,
                env={**environment(service, model_url), **world, "PORT": str(port)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the bench's, which then stops everything
            )
            url = f"http://127.0.0.1:{port}"
            running = cls(service, url, started, child, output, stack.pop_all())
        try:
            await running._listening(port)
            if service.token:
                token = await asyncio.to_thread(service.token, url)
                running._headers = {"authorization": f"Bearer {token}"}
        except BaseException:
            await running.stop()
            raise
        return running

    def connect(self) -> Connection:
        return Connection(self.url, self._headers)

    def cpu_seconds(self) -> float:
        return process.cpu_seconds(self._child.pid)

    def rss_bytes(self) -> float:
        return process.rss_bytes(self._child.pid)

    async def stop(self) -> None:
        """End the process and whatever it started, each by its id; by force if it must be."""
        family = process.tree(self._child.pid)
        if self._child.returncode is None:
            self._child.terminate()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), STOP_TIMEOUT)
        finally:  # also when a second Ctrl-C cuts the waiting short
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            await self._child.wait()
            self._world.close()

    async def _listening(self, port: int) -> None:
        """uvicorn opens its port when the application has started, so a connection is enough."""
        deadline = self.started + START_TIMEOUT
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError as exc:
                if self._child.returncode is not None or time.perf_counter() > deadline:
                    raise ServiceFailed(
                        f"{self.service.name} did not start: {self._said()}"
                    ) from exc
                await asyncio.sleep(POLL)
            else:
                writer.close()
                return

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2000:].strip()


def command(service: Service, port: int) -> Sequence[str]:
    """What follows `python -m`."""
    if service.starts_itself:
        return (service.app,)
    where = ("--host", "127.0.0.1", "--port", str(port))
    return ("uvicorn", service.app, *where, "--no-access-log", "--log-level", "warning")


def environment(service: Service, model_url: str) -> dict[str, str]:
    """This process's, without proxies, keys and tracing, and with the offline model in it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(NOT_PASSED_ON) and not name.lower().endswith("_proxy")
    }
    return {**kept, "OPENAI_BASE_URL": model_url, "OPENAI_API_KEY": FAKE_KEY, **service.environment}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
