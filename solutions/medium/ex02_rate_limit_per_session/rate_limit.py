"""How often one session may ask: a log of its turns, as long as they count."""

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
    """Lets `requests` turns of one session through in any `window` seconds."""

    def __init__(
        self, requests: int, window: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.requests = requests
        self.window = window
        self.clock = clock
        self._turns: dict[str, deque[float]] = {}  # longest idle first

    def hit(self, session_id: str) -> None:
        """Spend one turn of the session's allowance. Raises RateLimited, and then spends nothing.

        `retry_after` is in whole seconds: after waiting that long, a turn goes through.
        """
        now = self.clock()
        self._forget_before(now - self.window)
        turns = self._turns.get(session_id, deque())
        while turns and turns[0] <= now - self.window:
            turns.popleft()
        if len(turns) >= self.requests:
            raise RateLimited(retry_after=math.ceil(turns[0] + self.window - now))
        turns.append(now)
        self._turns.pop(session_id, None)
        self._turns[session_id] = turns

    def __len__(self) -> int:
        """How many sessions are remembered. The idle ones are forgotten when somebody asks."""
        return len(self._turns)

    def _forget_before(self, moment: float) -> None:
        """Sessions stand in the order of their last turn, so only idle ones are looked at."""
        while self._turns:
            session_id, turns = next(iter(self._turns.items()))
            if turns[-1] > moment:
                break
            del self._turns[session_id]


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
