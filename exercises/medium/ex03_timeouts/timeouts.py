"""Your part: how long a turn may take, and how long a stream may be silent."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from shared.agent_service import AgentService
from shared.errors import AgentError
from shared.models import QueryResponse, SessionInfo, SessionList, StreamChunk


class BadTimeout(AgentError):
    """The Request-Timeout header is no number of seconds above 0. Becomes a 422."""

    status = 422
    code = "validation_error"
    error = "Request-Timeout must be a number of seconds above 0."


@dataclass(frozen=True)
class Deadlines:
    """Seconds from when the question came in; `idle` from when the last chunk did."""

    query: float
    stream: float
    idle: float

    def for_client(self, asked: str | None) -> "Deadlines":
        """What holds for a client that asked for so many seconds. Raises BadTimeout."""
        if asked is None:
            return self
        raise NotImplementedError("TODO 3: let the client have less, never more")


class TimedAgentService:
    """The agent's service, with a deadline for each turn. Made for one request."""

    def __init__(self, service: AgentService, deadlines: Deadlines) -> None:
        self.service = service
        self.deadlines = deadlines

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        """Raises ModelTimeout at the deadline; the model's call has ended by then."""
        raise NotImplementedError("TODO 1: ask self.service, and give up at the deadline")

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """Ends at the deadline, or when `idle` seconds bring nothing.

        Raises ModelTimeout before the first chunk. After it, the last chunk tells.
        """
        raise NotImplementedError("TODO 2: pass the chunks on, with a deadline and an idle limit")
        yield StreamChunk(chunk="")

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        return await self.service.get_session_info(session_id, with_messages=with_messages)

    async def clear_session(self, session_id: str) -> None:
        await self.service.clear_session(session_id)

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        return await self.service.list_sessions(limit, cursor)
