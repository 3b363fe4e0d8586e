"""The session store in memory keeps the contract; its checkpoints come and go with it."""

from collections.abc import Callable
from datetime import datetime

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from shared.agent_service import thread
from shared.memory import LatestCheckpoints, MemorySessions
from shared.ports import SessionStore
from tests.session_store_contract import SessionStoreContract, visit


class TestMemorySessions(SessionStoreContract):
    def make(self, limit: int, clock: Callable[[], datetime]) -> SessionStore:
        return MemorySessions(LatestCheckpoints(), limit=limit, clock=clock)


@pytest.mark.parametrize("how", ["deleted", "pushed out"])
async def test_a_session_takes_its_checkpoint_along(how: str) -> None:
    """A session that is deleted or makes room leaves no conversation behind."""
    memory = LatestCheckpoints()
    store = MemorySessions(memory, limit=1)
    await visit(store, "s")
    await memory.aput(thread("s"), empty_checkpoint(), {}, {})
    if how == "deleted":
        await store.delete("s")
    else:
        await visit(store, "another")
    assert await memory.aget_tuple(thread("s")) is None


async def test_one_checkpoint_a_conversation() -> None:
    """A new checkpoint replaces the old one, and what is read can be changed without harm."""
    memory = LatestCheckpoints()
    for _ in range(3):
        newest = empty_checkpoint()
        await memory.aput(thread("s"), newest, {}, {})
    saved = await memory.aget_tuple(thread("s"))
    assert saved is not None
    assert saved.checkpoint == newest
    saved.checkpoint["channel_values"]["messages"] = ["not yours"]
    again = await memory.aget_tuple(thread("s"))
    assert again is not None
    assert again.checkpoint == newest
