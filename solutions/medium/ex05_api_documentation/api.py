"""The API as a stranger reads it: every operation, error and event, with examples that work."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query

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
from shared.web.streaming import EventStream, as_event, first_fetched

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = """
Ask an agent questions, in one piece or as a stream, and go on with the conversation later.

The examples below work in the order questions, reading, deleting: a question starts the session
that the others read and delete. Every error has the same form, and a `code` for programs.
"""

TAGS: list[dict[str, Any]] = [
    {"name": "questions", "description": "Ask the agent; each question is one turn of a session."},
    {"name": "sessions", "description": "What is kept of a conversation, and how to delete it."},
    {"name": "service", "description": "The service itself: what it is, and whether it answers."},
]

SESSION = "my-first-session"
FRESH = {"query": "What does the handbook say about caching?"}
CONTINUED = {"query": "And about retries?", "session_id": SESSION}


# --- errors


def _invalid(detail: str) -> ErrorResponse:
    return ErrorResponse(error="The request is not valid.", detail=detail, code="validation_error")


def _refusals(*errors: type[AgentError], **more: ErrorResponse) -> Responses:
    """By status; `more` are those that the framework answers with, such as s422=..."""
    by_status: dict[int, list[ErrorResponse]] = {500: [AgentError().as_response()]}
    for error in errors:
        by_status.setdefault(error.status, []).append(error().as_response())
    for status, body in more.items():
        by_status.setdefault(int(status[1:]), []).append(body)
    return {status: _described(status, bodies) for status, bodies in sorted(by_status.items())}


def _described(status: int, bodies: list[ErrorResponse]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "model": ErrorResponse,
        "description": " Or: ".join(body.error for body in bodies),
        "content": {
            "application/json": {
                "examples": {body.code: {"value": body.model_dump()} for body in bodies}
            }
        },
    }
    if status in (409, 503):
        wait = {"description": "Seconds to wait for", "schema": {"type": "integer"}}
        described["headers"] = {"Retry-After": wait}
    return described


UNREADABLE = _invalid("query: String should have at least 1 character")
LARGE = ErrorResponse(error="The request body is larger than 64 KiB.", code="too_large")
TURN = (SessionNotFound, SessionBusy, ModelError, ModelUnavailable, Overloaded, ModelTimeout)
TURN_ERRORS = _refusals(*TURN, s413=LARGE, s422=UNREADABLE)
PLAIN_ERRORS = _refusals(UseStreamEndpoint, *TURN, s413=LARGE, s422=UNREADABLE)
SESSION_ERRORS = _refusals(SessionNotFound, s422=_invalid("include: Input should be 'messages'"))
LIST_ERRORS = _refusals(s422=_invalid("limit: Input should be greater than or equal to 1"))


# --- events


def _events(*chunks: StreamChunk) -> dict[str, str]:
    return {"value": b"".join(map(as_event, chunks)).decode()}


SAID = [
    StreamChunk(chunk="Cache what is", metadata={"agent": "supervisor"}),
    StreamChunk(chunk=" asked often.", metadata={"agent": "supervisor"}),
]
NUMBERS = {"session_id": SESSION, "execution_time": 0.42, "tokens_used": 512, "iterations": 1}
FAILED = {**NUMBERS, "error": ModelTimeout().as_response().model_dump(), "retry_after": None}
EVENT = {
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
STREAMED: Responses = {
    200: {
        "description": "Server-sent events. Each `data:` is a StreamChunk as JSON; the last one, "
        "and no other, has `done: true`. An answer that fails on its way ends with an event whose "
        "`metadata.error` is an ErrorResponse.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "array", "items": EVENT},
                "examples": {
                    "answered": _events(*SAID, StreamChunk(chunk="", done=True, metadata=NUMBERS)),
                    "failed": _events(SAID[0], StreamChunk(chunk="", done=True, metadata=FAILED)),
                },
            }
        },
    }
}


# --- requests

PlainQuestion = Annotated[
    PlainQueryRequest,
    Body(
        openapi_examples={
            "a new session": {"summary": "Start a session", "value": FRESH},
            "a session that goes on": {"summary": "Start or go on with it", "value": CONTINUED},
        }
    ),
]
StreamedQuestion = Annotated[
    QueryRequest,
    Body(
        openapi_examples={
            "a new session": {"summary": "Start a session", "value": FRESH},
            "a session that goes on": {"summary": "Start or go on with it", "value": CONTINUED},
        }
    ),
]
SessionId = Annotated[str, Path(description="As the answer to a question said", examples=[SESSION])]
Include = Annotated[
    Literal["messages"] | None,
    Query(description="Adds the conversation itself", examples=["messages"]),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Sessions on a page", examples=[10])]
Cursor = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9]{1,18}$",
        description="`next_cursor` of the page before; leave it out for the first",
        examples=["17"],
    ),
]

router = APIRouter()


@router.get(
    "/",
    operation_id="describe_service",
    summary="What this service is",
    tags=["service"],
    responses=_refusals(),
)
async def root() -> ServiceInfo:
    """Its title and version, and where its documentation and its playground are."""
    return ServiceInfo(title="Agent service, exercise 5", version="1.0.0")


@router.get(
    "/health",
    operation_id="check_health",
    summary="Whether the process answers",
    tags=["service"],
    responses=_refusals(),
)
async def health() -> Health:
    """For load balancers: it asks nobody else, so it says nothing about the model."""
    return Health()


@router.post(
    "/api/v1/query",
    operation_id="ask",
    summary="Ask, and wait for the answer",
    tags=["questions"],
    responses=PLAIN_ERRORS,
)
async def query(request: PlainQuestion, service: AgentServiceDep) -> QueryResponse:
    """One turn of a session. Without a `session_id` it starts one, whose id is in the answer."""
    if request.stream:
        raise UseStreamEndpoint
    return await service.process_query(request.query, request.session_id, request.max_iterations)


async def open_stream(
    request: StreamedQuestion, service: AgentServiceDep
) -> AsyncIterator[EventStream]:
    chunks = service.stream_query(request.query, request.session_id, request.max_iterations)
    async with first_fetched(chunks) as stream:
        yield stream


@router.post(
    "/api/v1/query/stream",
    operation_id="ask_streaming",
    summary="Ask, and read along while the model writes",
    tags=["questions"],
    response_class=EventStream,
    responses={**STREAMED, **TURN_ERRORS},
)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    """The same turn as events. Errors before the first event are a status, later ones an event."""
    return stream


@router.get(
    "/api/v1/session/{session_id}",
    operation_id="get_session",
    summary="Look a session up",
    tags=["sessions"],
    responses=SESSION_ERRORS,
)
async def get_session(
    session_id: SessionId, service: AgentServiceDep, include: Include = None
) -> SessionInfo:
    """When it began, when it was last used, how long it is; on request all that was said."""
    return await service.get_session_info(session_id, with_messages=include == "messages")


@router.delete(
    "/api/v1/session/{session_id}",
    operation_id="delete_session",
    summary="Delete a session for good",
    tags=["sessions"],
    responses=SESSION_ERRORS,
)
async def delete_session(session_id: SessionId, service: AgentServiceDep) -> SessionDeleted:
    """The session and its conversation are gone; a turn that is under way ends."""
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@router.get(
    "/api/v1/sessions",
    operation_id="list_sessions",
    summary="List the sessions, newest first",
    tags=["sessions"],
    responses=LIST_ERRORS,
)
async def list_sessions(
    service: AgentServiceDep, limit: Limit = 100, cursor: Cursor = None
) -> SessionList:
    """A page of session ids, newest activity first."""
    return await service.list_sessions(limit, cursor)
