"""The agent's endpoints, for users who have logged in; to be included under API_PREFIX."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from shared.errors import UseStreamEndpoint
from shared.models import PlainQueryRequest, QueryResponse, SessionDeleted, SessionInfo, SessionList
from shared.web.documentation import refusals, session_errors, stream_responses, turn_errors
from shared.web.streaming import EventStream

from ..dependencies import USER_ERRORS, AgentServiceDep, OpenedStream, UsersRoute, security

router = APIRouter(tags=["agent"], route_class=UsersRoute, dependencies=[Depends(security)])


@router.post("/query", responses=turn_errors(*USER_ERRORS))
async def query(request: PlainQueryRequest, service: AgentServiceDep) -> QueryResponse:
    """Ask the agent, and wait for the whole answer."""
    if request.stream:
        raise UseStreamEndpoint
    return await service.process_query(request.query, request.session_id, request.max_iterations)


@router.post("/query/stream", response_class=EventStream, responses=stream_responses(*USER_ERRORS))
async def query_stream(stream: OpenedStream) -> EventStream:
    """Ask the agent, and read the answer while the model writes it."""
    return stream


@router.get("/session/{session_id}", responses=session_errors(*USER_ERRORS))
async def get_session(
    session_id: str, service: AgentServiceDep, include: Literal["messages"] | None = None
) -> SessionInfo:
    """What is known about a session of yours; `?include=messages` adds the conversation."""
    return await service.get_session_info(session_id, with_messages=include == "messages")


@router.delete("/session/{session_id}", responses=session_errors(*USER_ERRORS))
async def delete_session(session_id: str, service: AgentServiceDep) -> SessionDeleted:
    """Delete a session of yours and its conversation; a turn under way ends."""
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@router.get("/sessions", responses=refusals(*USER_ERRORS))
async def list_sessions(
    service: AgentServiceDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
) -> SessionList:
    """Your sessions, newest activity first."""
    return await service.list_sessions(limit, cursor)
