"""Blocks its event loop for ever."""

async def in_a_call() -> None:
    while True:
        pass
