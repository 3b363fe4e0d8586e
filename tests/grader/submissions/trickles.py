"""Sends a byte now and then, for ever."""

import asyncio


async def in_a_stream():
    from shared.models import StreamChunk

    while True:
        yield StreamChunk(chunk=".")
        await asyncio.sleep(0.2)
