"""A small HTTP/1.1 server side, one object per connection.

Why not uvicorn: a fault injector must do what a correct server refuses to do (drop a connection in
mid-answer, never answer, stop at once with streams open), and the model must cost next to nothing
in a benchmark. The parser is uvicorn's own, httptools.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import httptools

MAX_BODY = 8 * 1024 * 1024
MAX_PIPELINED = 16
PHRASES = {status.value: status.phrase for status in HTTPStatus}
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    too_large: bool
    """The body was longer than MAX_BODY and has been thrown away."""
    keep_alive: bool
    http_1_0: bool

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


Handler = Callable[[HttpRequest, "HttpResponse"], Awaitable[None]]


class Connection(asyncio.Protocol):
    """Reads requests and runs `handler` for one at a time; cancels it when the client goes away."""

    def __init__(self, handler: Handler, connections: "set[Connection]") -> None:
        self._handler = handler
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[HttpRequest] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._pending.clear()
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # an offer of HTTP/2, say: it is answered as the plain request that it also is
        except httptools.HttpParserError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # httptools calls these

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()
        self._too_large = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if ("expect", "100-continue") in self._headers:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if self._too_large or len(self._body) + len(data) > MAX_BODY:
            self._too_large = True
            self._body.clear()
        else:
            self._body += data

    def on_message_complete(self) -> None:
        # Reading is never paused, or a client that goes away would not be noticed.
        if len(self._pending) == MAX_PIPELINED:
            self.transport.abort()
            return
        request = HttpRequest(
            method=self._parser.get_method().decode("latin-1"),
            path=unquote(httptools.parse_url(self._url).path.decode("latin-1")),
            headers=self._headers,
            body=bytes(self._body),
            too_large=self._too_large,
            keep_alive=self._parser.should_keep_alive(),
            http_1_0=self._parser.get_http_version() == "1.0",
        )
        self._pending.append(request)
        self._start_next()

    # one request after another

    def _start_next(self) -> None:
        if self._task is None and self._pending:
            self._task = asyncio.create_task(self._handle(self._pending.popleft()))

    async def _handle(self, request: HttpRequest) -> None:
        response = HttpResponse(self.transport, self._writable, request)
        try:
            await self._handler(request, response)
        finally:
            self._task = None
            if not (response.complete and request.keep_alive):
                self.transport.close()  # what was written still goes out
        self._start_next()


class HttpResponse:
    """One response, whole (`send`) or in chunks (`start`, `chunk`..., `finish`).

    A handler that returns without having completed it has cut it: the connection is closed.
    """

    def __init__(
        self, transport: asyncio.Transport, writable: asyncio.Event, request: HttpRequest
    ) -> None:
        self.complete = False
        self._write = transport.write
        self._writable = writable
        self._request = request
        self._chunked = not request.http_1_0

    def send(self, status: int, content_type: str, body: bytes, headers: Headers = ()) -> None:
        head = self._head(status, content_type, [("content-length", str(len(body))), *headers])
        self._write(head if self._request.method == "HEAD" else head + body)
        self.complete = True

    def send_part(self, content_type: str, body: bytes, part: int) -> None:
        """The first `part` bytes of a 200 that promises all of `body`."""
        length = [("content-length", str(len(body)))]
        self._write(self._head(200, content_type, length) + body[:part])

    def start(self, content_type: str) -> None:
        """A 200 whose body comes in chunks."""
        framing = [("transfer-encoding", "chunked")] if self._chunked else []
        self._write(self._head(200, content_type, framing))

    async def chunk(self, data: bytes) -> None:
        """Write `data`, in a packet of its own, and wait while the client reads too slowly."""
        self._write(self._frame(data))
        await asyncio.sleep(0)  # uvloop joins what is written in one turn of the loop
        if not self._writable.is_set():
            await self._writable.wait()

    def finish(self, last: bytes = b"") -> None:
        frame = self._frame(last) if last else b""
        self._write(frame + b"0\r\n\r\n" if self._chunked else frame)
        self.complete = self._chunked  # without chunks the end is the end of the connection

    def _frame(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _head(self, status: int, content_type: str, headers: Headers) -> bytes:
        phrase = PHRASES.get(status, "")  # 529, for one, has none
        lines = [f"HTTP/1.1 {status} {phrase}", f"content-type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if not self._request.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
