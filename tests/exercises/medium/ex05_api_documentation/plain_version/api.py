"""The course's own routes with their own documentation, `shared/web/documentation.py`, as it is."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from medium.app.dependencies import AgentServiceDep
from shared.errors import (
    AgentError,
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    Overloaded,
    SessionBusy,
    SessionNotFound,
    UseStreamEndpoint,
)
from shared.models import (
    ErrorResponse,
    Health,
    PlainQueryRequest,
    QueryRequest,
    QueryResponse,
    ServiceInfo,
    SessionDeleted,
    SessionInfo,
    SessionList,
    StreamChunk,
)
from shared.web.errors import INTERNAL, TOO_LARGE, VALIDATION
from shared.web.streaming import EventStream, as_event, first_fetched

DESCRIPTION = ""

Responses = dict[int | str, dict[str, Any]]


def described(status: int, *errors: ErrorResponse) -> dict[str, Any]:
    examples = {error.code: {"value": error.model_dump()} for error in errors}
    documented: dict[str, Any] = {
        "model": ErrorResponse,
        "description": " Or: ".join(error.error for error in errors),
        "content": {"application/json": {"examples": examples}},
    }
    if status in (409, 503):
        wait = {"description": "Seconds to wait before trying again", "schema": {"type": "integer"}}
        documented["headers"] = {"Retry-After": wait}
    return documented


def refusals(*errors: type[AgentError]) -> Responses:
    """The errors by status, with those that any request may meet."""
    by_status: dict[int, list[ErrorResponse]] = {422: [VALIDATION], 500: [INTERNAL]}
    for error in errors:
        by_status.setdefault(error.status, []).append(error().as_response())
    return {status: described(status, *by_status[status]) for status in sorted(by_status)}


REQUEST_ERRORS = refusals()
SESSION_ERRORS = refusals(SessionNotFound)

_TURN = (SessionNotFound, SessionBusy, ModelError, ModelUnavailable, Overloaded, ModelTimeout)
_BODY: Responses = {413: described(413, TOO_LARGE)}

TURN_ERRORS = {**refusals(UseStreamEndpoint, *_TURN), **_BODY}

_LAST = {
    "session_id": "2f1c9a52-6a5f-4a0e-9d37-1d3c8f0a7f11",
    "execution_time": 0.42,
    "tokens_used": 512,
    "iterations": 4,
    "cached": False,
    "stopped": None,
}
_CALCULATION = {"name": "calculate", "arguments": {"expression": "17.5% of 2480 - 12"}}
_BEGINNING = [
    StreamChunk(chunk="", metadata={"agent": "analyst", "tool": _CALCULATION}),
    StreamChunk(chunk="17.5% of 2480 - 12", metadata={"agent": "supervisor"}),
    StreamChunk(chunk=" = 422.", metadata={"agent": "supervisor"}),
]
_CUT_SHORT = {**_LAST, "error": ModelError().as_response().model_dump()}


def events(*chunks: StreamChunk) -> dict[str, str]:
    return {"value": b"".join(map(as_event, chunks)).decode()}


_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": StreamChunk.model_json_schema(),
        }
    },
}
STREAM_RESPONSES: Responses = {
    200: {
        "description": "Server-sent events: each `data:` holds a StreamChunk as JSON. Only the "
        "last has `done: true`; if the answer failed on its way, its `metadata.error` says how.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "array", "items": _EVENT},
                "itemSchema": _EVENT,  # the same, as OpenAPI 3.2 says it
                "examples": {
                    "answered": events(
                        *_BEGINNING, StreamChunk(done=True, chunk="", metadata=_LAST)
                    ),
                    "failed on its way": events(
                        _BEGINNING[1], StreamChunk(done=True, chunk="", metadata=_CUT_SHORT)
                    ),
                },
            }
        },
    },
    **refusals(*_TURN),
    **_BODY,
}


TAGS: list[dict[str, Any]] = []

router = APIRouter()


@router.get("/", tags=["service"])
async def root() -> ServiceInfo:
    """What this service is, and where to go next."""
    return ServiceInfo(title="Agent service, exercise 5", version="1.0.0")


@router.get("/health", tags=["service"])
async def health() -> Health:
    """Whether the process answers; it asks nobody else."""
    return Health()


@router.post("/api/v1/query", tags=["agent"], responses=TURN_ERRORS)
async def query(request: PlainQueryRequest, service: AgentServiceDep) -> QueryResponse:
    """Ask the agent, and wait for the whole answer."""
    if request.stream:
        raise UseStreamEndpoint
    return await service.process_query(request.query, request.session_id, request.max_iterations)


async def open_stream(
    request: QueryRequest, service: AgentServiceDep
) -> AsyncIterator[EventStream]:
    chunks = service.stream_query(request.query, request.session_id, request.max_iterations)
    async with first_fetched(chunks) as stream:
        yield stream


@router.post(
    "/api/v1/query/stream",
    tags=["agent"],
    response_class=EventStream,
    responses=STREAM_RESPONSES,
)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    """Ask the agent, and read the answer while the model writes it."""
    return stream


@router.get("/api/v1/session/{session_id}", tags=["agent"], responses=SESSION_ERRORS)
async def get_session(
    session_id: str, service: AgentServiceDep, include: Literal["messages"] | None = None
) -> SessionInfo:
    """What is known about a session; `?include=messages` adds the conversation."""
    return await service.get_session_info(session_id, with_messages=include == "messages")


@router.delete("/api/v1/session/{session_id}", tags=["agent"], responses=SESSION_ERRORS)
async def delete_session(session_id: str, service: AgentServiceDep) -> SessionDeleted:
    """Delete a session and its conversation; a turn under way ends."""
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@router.get("/api/v1/sessions", tags=["agent"], responses=REQUEST_ERRORS)
async def list_sessions(
    service: AgentServiceDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
) -> SessionList:
    """All sessions, newest activity first."""
    return await service.list_sessions(limit, cursor)
