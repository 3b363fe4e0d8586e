"""How long a turn may take, and how long a stream may be silent."""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from uuid import uuid4

from shared.agent_service import AgentService
from shared.errors import AgentError, ModelTimeout
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
        try:
            seconds = float(asked)
        except ValueError:
            raise BadTimeout from None
        if math.isnan(seconds) or seconds <= 0:
            raise BadTimeout
        return Deadlines(min(self.query, seconds), min(self.stream, seconds), self.idle)


class TimedAgentService:
    """The agent's service, with a deadline for each turn. Made for one request."""

    def __init__(self, service: AgentService, deadlines: Deadlines) -> None:
        self.service = service
        self.deadlines = deadlines

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        """Raises ModelTimeout at the deadline; the model's call has ended by then."""
        try:
            async with asyncio.timeout(self.deadlines.query):
                return await self.service.process_query(query, session_id, max_iterations)
        except TimeoutError:
            raise ModelTimeout from None

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """Ends at the deadline, or when `idle` seconds bring nothing.

        Raises ModelTimeout before the first chunk. After it, the last chunk tells.
        """
        session_id = session_id or str(uuid4())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.deadlines.stream
        told = False
        try:
            async with (
                asyncio.timeout_at(min(deadline, loop.time() + self.deadlines.idle)) as limit,
                aclosing(self.service.stream_query(query, session_id, max_iterations)) as chunks,
            ):
                async for chunk in chunks:
                    told = True
                    yield chunk
                    limit.reschedule(min(deadline, loop.time() + self.deadlines.idle))
        except TimeoutError:
            if not told:
                raise ModelTimeout from None
            yield _timed_out(session_id)

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        return await self.service.get_session_info(session_id, with_messages=with_messages)

    async def clear_session(self, session_id: str) -> None:
        await self.service.clear_session(session_id)

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        return await self.service.list_sessions(limit, cursor)


def _timed_out(session_id: str) -> StreamChunk:
    """The last event of a stream that was not allowed to end by itself."""
    error = ModelTimeout().as_response().model_dump()
    metadata = {"session_id": session_id, "stopped": None, "error": error, "retry_after": None}
    return StreamChunk(chunk="", done=True, metadata=metadata)
