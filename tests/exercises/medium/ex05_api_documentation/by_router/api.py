"""The API in chapters: a router for each, with its tag and errors; examples in the models."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.routing import APIRoute
from pydantic import ConfigDict, JsonValue

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
FRESH: dict[str, JsonValue] = {"query": "What does the handbook say about caching?"}
CONTINUED: dict[str, JsonValue] = {"query": "And about retries?", "session_id": SESSION}


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

BOTH = ConfigDict(json_schema_extra={"examples": [FRESH, CONTINUED]})


class PlainQuestion(PlainQueryRequest):
    """A question, with examples that work."""

    model_config = BOTH


class StreamedQuestion(QueryRequest):
    """The same, for a stream."""

    model_config = BOTH


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


def as_written(route: APIRoute) -> str:
    """ask_for_a_stream becomes askForAStream, as generated clients have it."""
    first, *rest = route.name.split("_")
    return first + "".join(map(str.capitalize, rest))


router = APIRouter(generate_unique_id_function=as_written)
service_router = APIRouter(tags=["service"])
questions = APIRouter(prefix="/api/v1", tags=["questions"], responses=TURN_ERRORS)
sessions = APIRouter(prefix="/api/v1", tags=["sessions"], responses=LIST_ERRORS)


@service_router.get(
    "/",
    summary="What this service is",
)
async def root() -> ServiceInfo:
    """Its title and version, and where its documentation and its playground are."""
    return ServiceInfo(title="Agent service, exercise 5", version="1.0.0")


@service_router.get(
    "/health",
    summary="Whether the process answers",
)
async def health() -> Health:
    """For load balancers: it asks nobody else, so it says nothing about the model."""
    return Health()


@questions.post(
    "/query",
    summary="Ask, and wait for the answer",
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


@questions.post(
    "/query/stream",
    summary="Ask, and read along while the model writes",
    response_class=EventStream,
    responses=STREAMED,
)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    """The same turn as events. Errors before the first event are a status, later ones an event."""
    return stream


@sessions.get(
    "/session/{session_id}",
    summary="Look a session up",
    responses=SESSION_ERRORS,
)
async def get_session(
    session_id: SessionId, service: AgentServiceDep, include: Include = None
) -> SessionInfo:
    """When it began, when it was last used, how long it is; on request all that was said."""
    return await service.get_session_info(session_id, with_messages=include == "messages")


@sessions.delete(
    "/session/{session_id}",
    summary="Delete a session for good",
    responses=SESSION_ERRORS,
)
async def delete_session(session_id: SessionId, service: AgentServiceDep) -> SessionDeleted:
    """The session and its conversation are gone; a turn that is under way ends."""
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@sessions.get(
    "/sessions",
    summary="List the sessions, newest first",
)
async def list_sessions(
    service: AgentServiceDep, limit: Limit = 100, cursor: Cursor = None
) -> SessionList:
    """A page of session ids, newest activity first."""
    return await service.list_sessions(limit, cursor)


for chapter in (service_router, questions, sessions):
    router.include_router(chapter)
