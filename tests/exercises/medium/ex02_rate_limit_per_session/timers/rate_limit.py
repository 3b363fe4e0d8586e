"""How often one session may ask: a timer for each of its turns."""

import asyncio
import math
import time
from collections import deque
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
    """Every turn sets a timer that forgets it after a window."""

    def __init__(
        self, requests: int, window: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.requests = requests
        self.window = window
        self.clock = clock
        self._timers: dict[str, deque[asyncio.TimerHandle]] = {}

    def hit(self, session_id: str) -> None:
        """Set a timer, unless as many run already."""
        loop = asyncio.get_running_loop()
        timers = self._timers.setdefault(session_id, deque())
        if len(timers) >= self.requests:
            left = timers[0].when() - loop.time()
            raise RateLimited(retry_after=max(1, math.ceil(left)))
        timers.append(loop.call_later(self.window, self._forget, session_id))

    def _forget(self, session_id: str) -> None:
        timers = self._timers[session_id]
        timers.popleft()
        if not timers:
            del self._timers[session_id]

    def __len__(self) -> int:
        return len(self._timers)


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
