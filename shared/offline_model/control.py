"""The control object: starts the model in a thread, says how it behaves, knows what it was asked.

There is no URL for any of this: only the process that made the object can steer the model.
"""

import asyncio
import contextlib
import os
import socket
import stat
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import uvloop

from shared.offline_model.connection import Connection
from shared.offline_model.recorder import RING, Call, Recorder
from shared.offline_model.scenarios import Behaviour, Script
from shared.offline_model.server import ModelServer

MODELS = ("offline-assistant", "gpt-4o-mini", "gpt-4.1-mini")
BACKLOG = 2048


class OfflineModel:
    """An OpenAI-compatible model on a port or, with `uds`, on a Unix socket.

    Port 0 is one that the system chooses; it stays the same over `stop` and `start`. `api_key` is
    the one key that is accepted; None accepts any that is not empty. `keep=False` records numbers
    only. Every method may be called from any thread.

        with OfflineModel() as model:
            model.respond(Scenario("Hello.", token_delay=0.02))
            ChatOpenAI(model="offline-assistant", base_url=model.base_url, api_key="any")
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        models: Iterable[str] = MODELS,
        keep: bool = True,
    ) -> None:
        self._host = host
        self._port = port
        self.uds = None if uds is None else Path(uds)
        self._script = Script()
        self._recorder = Recorder(RING if keep else 0)
        self._models = tuple(models)
        self._api_key = api_key
        self._thread: threading.Thread | None = None

    # --- running

    @property
    def base_url(self) -> str:
        """What clients are given. On a Unix socket the host is a name only."""
        if self.uds:
            return "http://localhost/v1"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    @property
    def port(self) -> int:
        """The port; OSError before the first start if the system is to choose it."""
        if self._port == 0:
            raise OSError("the offline model has no port before it is started")
        return self._port

    def start(self) -> Self:
        """Listen and answer. OSError if the port or the socket's path is taken."""
        if self._thread:
            raise RuntimeError("the offline model is running already")
        listener = self._listen()
        self._loop = uvloop.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=[listener], name="offline-model", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close everything at once, open streams too. Without effect if it is not running."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._thread = None
        if self.uds:
            self.uds.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # --- behaviour

    def respond(self, behaviour: Behaviour | None) -> None:
        """How all calls are answered from now on; None is the assistant again."""
        self._script.respond(behaviour)

    def enqueue(self, *behaviours: Behaviour) -> None:
        """How the next calls are answered, one each, before falling back to `respond`."""
        self._script.enqueue(*behaviours)

    # --- the record

    @property
    def calls(self) -> list[Call]:
        """The last 10,000 calls, oldest first, refused ones included. The list is a copy; an open
        call in it goes on changing."""
        return self._recorder.calls

    @property
    def call_count(self) -> int:
        """How many calls came, also of those that are no longer kept."""
        return self._recorder.count

    def clear(self) -> None:
        """Forget the calls, and what was said with `respond` and `enqueue`."""
        self._script.clear()
        self._recorder.clear()

    def wait_for(self, predicate: Callable[["OfflineModel"], bool], timeout: float = 5.0) -> None:
        """Return as soon as `predicate(model)` holds; TimeoutError, with the calls, if it does not.

        The predicate is asked again whenever a call begins, sends a piece or ends.
        """
        if not self._recorder.wait_for(lambda: predicate(self), timeout):
            calls = "".join(f"\n  {call}" for call in self.calls) or " none"
            raise TimeoutError(f"not seen within {timeout:g} s. The model's calls:{calls}")

    async def wait_for_async(
        self,
        predicate: Callable[["OfflineModel"], bool],
        timeout: float = 5.0,  # noqa: ASYNC109 - as in wait_for
    ) -> None:
        """`wait_for`, without blocking the event loop."""
        await asyncio.to_thread(self.wait_for, predicate, timeout)

    # --- the thread

    def _listen(self) -> socket.socket:
        if self.uds:
            return _listen_on_path(self.uds)
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=BACKLOG)
        self._port = listener.getsockname()[1]
        return listener

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        model = ModelServer(
            self._script,
            self._recorder,
            models=self._models,
            api_key=self._api_key,
            session=uuid.uuid4().hex[:8],
        )
        connections: set[Connection] = set()
        make = self._loop.create_unix_server if self.uds else self._loop.create_server
        server = await make(lambda: Connection(model.handle, connections), sock=listener)
        await self._stopped.wait()
        model.stopping = True
        server.close()
        for connection in list(connections):
            connection.transport.abort()


def _listen_on_path(path: Path) -> socket.socket:
    """A Unix socket at `path`, in the place of one that nobody listens on any more."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _is_answered(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return True
    return False
