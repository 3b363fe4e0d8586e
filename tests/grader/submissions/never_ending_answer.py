"""Streams without an end."""

import asyncio


async def in_a_stream():
    from shared.models import StreamChunk

    while True:
        yield StreamChunk(chunk="x" * 10_000)
        await asyncio.sleep(0)
