"""Your part: how often one session may ask."""

import time
from collections.abc import AsyncGenerator, Callable

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

    def hit(self, session_id: str) -> None:
        """Spend one turn of the session's allowance. Raises RateLimited, and then spends nothing.

        `retry_after` is in whole seconds: after waiting that long, a turn goes through.
        """
        raise NotImplementedError("TODO 1: count this session's turns in the last window seconds")

    def __len__(self) -> int:
        """How many sessions are remembered. The idle ones are forgotten when somebody asks."""
        raise NotImplementedError("TODO 4: count the sessions, and let hit() forget the idle ones")


class LimitedAgentService:
    """The agent's service, with the limiter before every turn. Reading costs nothing."""

    def __init__(self, service: AgentService, limiter: SessionLimiter) -> None:
        self.service = service
        self.limiter = limiter

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        raise NotImplementedError("TODO 2: spend a turn, then ask self.service")

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        raise NotImplementedError("TODO 3: the same for streams, before the first chunk")
        yield StreamChunk(chunk="")

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        return await self.service.get_session_info(session_id, with_messages=with_messages)

    async def clear_session(self, session_id: str) -> None:
        await self.service.clear_session(session_id)

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        return await self.service.list_sessions(limit, cursor)
