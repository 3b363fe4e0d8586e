"""Your part: what a stranger reads who has never seen this service. The routes work already."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from medium.app.dependencies import AgentServiceDep
from shared.errors import UseStreamEndpoint
from shared.models import (
    Health,
    PlainQueryRequest,
    QueryRequest,
    QueryResponse,
    ServiceInfo,
    SessionDeleted,
    SessionInfo,
    SessionList,
)
from shared.web.streaming import EventStream, first_fetched

DESCRIPTION = """
TODO 1: give every operation an id, a summary, a description and a tag; tell here what it all is.
TODO 2: describe every parameter, with an example.
TODO 3: describe every error that an operation can answer with, and no other.
TODO 4: describe the events of a stream.
TODO 5: give examples that work when somebody sends them.
"""

TAGS: list[dict[str, Any]] = []

PlainQuestion = PlainQueryRequest
StreamedQuestion = QueryRequest
SessionId = str
Include = Literal["messages"] | None
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")]

router = APIRouter()


@router.get("/")
async def root() -> ServiceInfo:
    return ServiceInfo(title="Agent service, exercise 5", version="1.0.0")


@router.get("/health")
async def health() -> Health:
    return Health()


@router.post("/api/v1/query")
async def query(request: PlainQuestion, service: AgentServiceDep) -> QueryResponse:
    if request.stream:
        raise UseStreamEndpoint
    return await service.process_query(request.query, request.session_id, request.max_iterations)


async def open_stream(
    request: StreamedQuestion, service: AgentServiceDep
) -> AsyncIterator[EventStream]:
    chunks = service.stream_query(request.query, request.session_id, request.max_iterations)
    async with first_fetched(chunks) as stream:
        yield stream


@router.post("/api/v1/query/stream", response_class=EventStream)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    return stream


@router.get("/api/v1/session/{session_id}")
async def get_session(
    session_id: SessionId, service: AgentServiceDep, include: Include = None
) -> SessionInfo:
    return await service.get_session_info(session_id, with_messages=include == "messages")


@router.delete("/api/v1/session/{session_id}")
async def delete_session(session_id: SessionId, service: AgentServiceDep) -> SessionDeleted:
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@router.get("/api/v1/sessions")
async def list_sessions(
    service: AgentServiceDep, limit: Limit = 100, cursor: Cursor = None
) -> SessionList:
    return await service.list_sessions(limit, cursor)
