"""What LangChain's callbacks are told of a turn, and in whose context."""

from collections import Counter
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler

from advanced.app.agent_service import ProductionAgentService
from advanced.app.cache import CacheService
from advanced.app.flights import Flights
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.offline_model import OfflineModel

asker: ContextVar[str] = ContextVar("asker")


class Seen(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.told: Counter[tuple[str, str]] = Counter()

    def note(self, what: str) -> None:
        self.told[asker.get(), what] += 1

    async def on_chain_start(self, *_: Any, **about: Any) -> None:
        self.note(about["name"])

    async def on_chat_model_start(self, *_: Any, **about: Any) -> None:
        self.note("model")

    async def on_tool_start(self, *_: Any, **about: Any) -> None:
        self.note("tool")


@pytest.mark.parametrize("cached", [True, False])
async def test_callbacks_are_told_of_every_step_in_the_context_of_who_asked(cached: bool) -> None:
    """Of a session's first turn, which may be made for several, and of a streamed later one."""
    memory, seen = LatestCheckpoints(), Seen()
    with OfflineModel() as offline:
        async with open_llm(model="gpt-4o-mini", base_url=offline.base_url) as llm:
            flights = Flights(CacheService(None, ttl=1, enabled=cached))
            sessions = MemorySessions(memory, limit=10)
            service = ProductionAgentService(llm, memory, sessions, flights, callbacks=[seen])
            asker.set("first")
            first = await service.process_query("What is 17.5% of 2480?")
            asker.set("second")
            async for _ in service.stream_query("And 3 * 4?", first.session_id):
                pass
            await flights.aclose()
    for who in ("first", "second"):
        told = {what: seen.told[who, what] for what in ("supervisor", "analyst", "model", "tool")}
        assert told == {"supervisor": 2, "analyst": 1, "model": 4, "tool": 1}
