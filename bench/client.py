"""The load driver's HTTP client: one kept-alive connection, raw, so that it is never the slow part.

It reads as much HTTP/1.1 as the services answer with: a length or chunks, and no redirects.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

REQUEST_TIMEOUT = 60.0  # seconds for a whole answer, streams included


class RequestFailed(Exception):
    """The answer was not the one asked for; the message says what came instead."""


@dataclass(frozen=True)
class Event:
    at: float  # perf_counter() when its last byte had been read
    data: bytes  # what follows "data: "


@dataclass(frozen=True)
class EventStream:
    started: float  # perf_counter() when the request went out
    events: list[Event]


class Connection:
    """Opened by the first request, and anew by the first one after a failure."""

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None) -> None:
        url = urlsplit(base_url)
        self._host, self._port = url.hostname or "127.0.0.1", url.port or 80
        self._base_path = url.path.rstrip("/")
        fields = {"host": url.netloc, "content-type": "application/json", **(headers or {})}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of one answer; raises RequestFailed for anything but a whole 200."""
        async with self._answer(path, body) as parts:
            return json.loads(b"".join([part async for part in parts]))

    async def stream(self, path: str, body: Mapping[str, Any]) -> EventStream:
        """A whole event stream with the time of each event; comments are skipped."""
        started = time.perf_counter()
        events: list[Event] = []
        pending = b""
        async with self._answer(path, body) as parts:
            async for part in parts:
                now = time.perf_counter()
                *blocks, pending = (pending + part).split(b"\n\n")
                events += [Event(now, b[6:]) for b in blocks if b.startswith(b"data: ")]
        return EventStream(started, events)

    @asynccontextmanager
    async def _answer(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        whole = False
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                reader = await self._send(path, json.dumps(body).encode())
                status, fields = await _read_head(reader)
                parts = _read_body(reader, fields)
                if status != 200:
                    text = b"".join([part async for part in parts])
                    raise RequestFailed(f"{path} answered {status}: {text[:200]!r}")
                yield parts
                whole = True
        except (OSError, EOFError, LookupError, ValueError) as exc:
            raise RequestFailed(f"{path}: {type(exc).__name__} {exc}".rstrip()) from exc
        finally:
            if not whole:
                self.close()

    async def _send(self, path: str, body: bytes) -> asyncio.StreamReader:
        if self._open is None:
            self._open = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._open
        head = f"POST {self._base_path}{path} HTTP/1.1\r\n{self._fields}"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return reader


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    pairs = (line.partition(":") for line in lines if line)
    return int(status_line.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _read_body(
    reader: asyncio.StreamReader, fields: Mapping[str, str]
) -> AsyncIterator[bytes]:
    if fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        yield await reader.readexactly(int(fields["content-length"]))
