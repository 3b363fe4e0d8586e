"""How often one session may ask: slots that are taken for a window."""

import heapq
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from uuid import uuid4

from shared.agent_service import AgentService
from shared.errors import AgentError
from shared.models import QueryResponse, SessionInfo, SessionList, StreamChunk


class RateLimited(AgentError):
    """A session asked more often than it may. `RateLimited(retry_after=3)` becomes a 429."""

    status = 429
    code = "rate_limited"
    error = "This session has asked too often; try again later."


class SessionLimiter:
    """Each session has `requests` slots; a turn takes one for a window."""

    def __init__(
        self, requests: int, window: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.requests = requests
        self.window = window
        self.clock = clock
        self._free_at: dict[str, list[float]] = {}
        self._last_sweep = clock()

    def hit(self, session_id: str) -> None:
        """Take the slot that is free first, if it is free."""
        now = self.clock()
        self._sweep(now)
        slots = self._free_at.setdefault(session_id, [0.0] * self.requests)
        if slots[0] > now:
            raise RateLimited(retry_after=math.ceil(slots[0] - now))
        heapq.heapreplace(slots, now + self.window)

    def __len__(self) -> int:
        return len(self._free_at)

    def _sweep(self, now: float) -> None:
        """Once a window, look at all of them."""
        if now - self._last_sweep < self.window:
            return
        self._last_sweep = now
        busy = {id_: slots for id_, slots in self._free_at.items() if max(slots) > now}
        self._free_at = busy


class LimitedAgentService:
    """The agent's service, with the limiter before every turn. Reading costs nothing."""

    def __init__(self, service: AgentService, limiter: SessionLimiter) -> None:
        self.service = service
        self.limiter = limiter

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        session_id = session_id or str(uuid4())
        self.limiter.hit(session_id)
        return await self.service.process_query(query, session_id, max_iterations)

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        session_id = session_id or str(uuid4())
        self.limiter.hit(session_id)
        async with aclosing(self.service.stream_query(query, session_id, max_iterations)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        return await self.service.get_session_info(session_id, with_messages=with_messages)

    async def clear_session(self, session_id: str) -> None:
        await self.service.clear_session(session_id)

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        return await self.service.list_sessions(limit, cursor)
