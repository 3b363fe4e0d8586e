"""Streamed answers as server-sent events, and the commit point: no 200 before the first event."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from shared.models import StreamChunk

PING = b": still here\n\n"
"""A comment: clients skip it, and proxies see that the connection is alive."""


@asynccontextmanager
async def first_fetched(chunks: AsyncGenerator[StreamChunk, None]) -> AsyncIterator["EventStream"]:
    """The response for a stream whose first chunk is there; closing the block stops the stream.

    Whatever goes wrong before that chunk is raised here, where it can still become a status.
    """
    async with aclosing(chunks):
        first = as_event(await anext(chunks))

        async def events() -> AsyncIterator[bytes]:
            yield first
            async for chunk in chunks:
                yield as_event(chunk)

        yield EventStream(events())


def as_event(chunk: StreamChunk) -> bytes:
    """One event. ASCII alone: some clients take U+2028 and its like for the end of a line."""
    return b"data: %b\n\n" % chunk.model_dump_json(ensure_ascii=True).encode()


class EventStream(StreamingResponse):
    """Server-sent events, with a PING after `ping_interval` silent seconds.

    The class has no `media_type` of its own: FastAPI would document its route's errors with it.
    """

    ping_interval = 15.0

    def __init__(self, events: AsyncIterator[bytes], status_code: int = 200) -> None:
        super().__init__(
            events,
            status_code,  # FastAPI documents the default
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},  # asks nginx to pass each event on at once
        )

    async def stream_response(self, send: Send) -> None:
        last_sent = time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal last_sent
            last_sent = time.monotonic()
            await send(message)

        async def ping() -> None:
            while True:
                silent = time.monotonic() - last_sent
                if silent >= self.ping_interval:
                    await noted({"type": "http.response.body", "body": PING, "more_body": True})
                    continue
                await asyncio.sleep(self.ping_interval - silent)

        pinging = asyncio.create_task(ping())
        try:
            await super().stream_response(noted)
        finally:
            pinging.cancel()
