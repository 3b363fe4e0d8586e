"""Your part: the agent's endpoints, all under /api/v1. Served as `medium/app/routes/agent.py`.

TODO 14: say in each decorator what else an endpoint may answer (shared/web/documentation.py).
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from medium.app.dependencies import AgentServiceDep, OpenedStream
from shared.models import PlainQueryRequest, QueryResponse, SessionDeleted, SessionInfo, SessionList
from shared.web.streaming import EventStream

router = APIRouter(prefix="/api/v1", tags=["agent"])


@router.post("/query")
async def query(request: PlainQueryRequest, service: AgentServiceDep) -> QueryResponse:
    """Ask the agent, and wait for the whole answer."""
    # TODO 13: refuse `stream: true` with UseStreamEndpoint (shared/errors.py).
    raise NotImplementedError("TODO 8: hand the question to the service")


@router.post("/query/stream")
async def query_stream(stream: OpenedStream) -> EventStream:
    """Ask the agent, and read the answer while the model writes it."""
    raise NotImplementedError("TODO 12: answer with the stream that the dependency has opened")


@router.get("/session/{session_id}")
async def get_session(
    session_id: str, service: AgentServiceDep, include: Literal["messages"] | None = None
) -> SessionInfo:
    """What is known about a session; `?include=messages` adds the conversation."""
    raise NotImplementedError("TODO 9: ask the service what it knows about this session")


@router.delete("/session/{session_id}")
async def delete_session(session_id: str, service: AgentServiceDep) -> SessionDeleted:
    """Delete a session and its conversation; a turn under way ends."""
    raise NotImplementedError("TODO 10: have the service clear the session, then say so")


@router.get("/sessions")
async def list_sessions(
    service: AgentServiceDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
) -> SessionList:
    """All sessions, newest activity first."""
    raise NotImplementedError("TODO 6: ask the service for this page of the list")
