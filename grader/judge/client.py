"""An HTTP client for one served submission, which remembers what was said."""

import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio.abc
import httpcore
import httpx
from httpcore._backends.anyio import AnyIOStream

from grader.judge.talking import PLAIN, Reply, read_reply
from grader.sandbox.client import Ended, Refused, Run

KEPT_BODY = 2000
MAX_ANSWER = 16 * 1024 * 1024
SHOWN_HEADERS = ("content-type", "retry-after", "allow", "www-authenticate")


class TooMuch(Exception):
    """An answer without an end, or too large to be one."""


@dataclass
class Exchange:
    """One request and what came back, as far as it is shown."""

    request: str
    sent: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    came: bytes = b""
    left_out: int = 0
    fault: str = ""


class Client(httpx.AsyncClient):
    """Talks to `run`, waits longer than any check lasts, and counts what it reads."""

    def __init__(self, run: Run, journal: list[Exchange]) -> None:
        pool = httpcore.AsyncConnectionPool(
            max_connections=None,
            max_keepalive_connections=0,  # a service may close one while the next request uses it
            network_backend=IntoTheSandbox(run),
        )
        super().__init__(
            base_url="http://127.0.0.1:8000",
            timeout=httpx.Timeout(130),
            trust_env=False,
            transport=Recording(pool, journal),
            headers={"Accept-Encoding": "identity"},
        )
        self.run = run
        self.was_told_to_end = False

    async def ask(
        self, query: str, session_id: str | None = None, path: str = PLAIN, **more: Any
    ) -> Reply:
        """One turn, to its end, plain or streamed."""
        body = {"query": query, "session_id": session_id, **more}
        async with self.stream("POST", path, json=body) as response:
            return await read_reply(response)

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A bare connection, with a timeout of 20 s; with a small buffer it is soon full."""
        connection = self.run.connect(receive_buffer)
        connection.settimeout(20)
        return connection

    def signal(self, number: int) -> None:
        """Send the service a signal. SIGKILL is what a crash looks like from outside."""
        self.was_told_to_end = True
        self.run.signal(number)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.run.output.text

    @property
    def ended(self) -> Ended | None:
        return self.run.ended


class IntoTheSandbox(httpcore.AsyncNetworkBackend):
    """Connections that are made where the submission lives."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            connection = self._run.connect()
        except Refused as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        return AnyIOStream(await anyio.abc.SocketStream.from_socket(connection))


class Recording(httpx.AsyncBaseTransport):
    def __init__(self, pool: httpcore.AsyncConnectionPool, journal: list[Exchange]) -> None:
        no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would read its own list of CAs
        self._inner = httpx.AsyncHTTPTransport(verify=no_tls)
        self._inner._pool = pool
        self._journal = journal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = request.content if hasattr(request, "_content") else b"(a stream)"
        exchange = Exchange(
            f"{request.method} {request.url.raw_path.decode('ascii')}", _shown(sent)
        )
        self._journal.append(exchange)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as exc:
            exchange.fault = str(exc) or type(exc).__name__
            raise
        exchange.status = response.status_code
        exchange.headers = {
            name: response.headers[name] for name in SHOWN_HEADERS if name in response.headers
        }
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise AssertionError("the answer is compressed, and nobody asked for that")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Counted(response.stream, exchange)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Counted(httpx.AsyncByteStream):
    """A body, remembered up to KEPT_BODY bytes and refused after MAX_ANSWER."""

    def __init__(self, stream: httpx.AsyncByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        whole = aiter(self._stream)
        async with contextlib.aclosing(whole) as pieces:  # type: ignore[type-var] # a generator, though httpx's type says less
            async for piece in pieces:
                kept = piece[: KEPT_BODY - len(exchange.came)]
                exchange.came += kept
                exchange.left_out += len(piece) - len(kept)
                if exchange.left_out > MAX_ANSWER:
                    exchange.fault = "the answer does not end"
                    raise TooMuch("an answer of more than 16 MiB")
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def _shown(sent: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(json.loads(sent), ensure_ascii=False)[:KEPT_BODY] if sent else ""
    return sent[:KEPT_BODY].decode(errors="backslashreplace")
