"""The API, documented by hand: plain OpenAPI in tables, from which the routes take their part."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query

from medium.app.dependencies import AgentServiceDep
from shared.errors import UseStreamEndpoint
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
)
from shared.web.streaming import EventStream, first_fetched

DESCRIPTION = "An agent that answers questions, with everything that one has to know about it."
TAGS: list[dict[str, Any]] = [
    {"name": "Agent", "description": "Questions and answers."},
    {"name": "Sessions", "description": "What is remembered."},
    {"name": "Operations", "description": "For whoever runs the service."},
]
ERRORS = {
    400: ["use_stream_endpoint"],
    404: ["session_not_found"],
    409: ["session_busy"],
    413: ["too_large"],
    422: ["validation_error"],
    502: ["model_error"],
    503: ["model_unavailable", "overloaded"],
    504: ["model_timeout"],
}
WHEN = {
    400: "A stream was asked for here",
    404: "There is no such session",
    409: "The session is still busy with another turn",
    413: "The body is too large",
    422: "The request is not valid",
    502: "The model answered with nonsense",
    503: "The model is busy, or we are",
    504: "The model was too slow",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "model": ErrorResponse,
            "description": WHEN[status],
            "headers": {"retry-after": {"schema": {"type": "integer"}}}
            if status in (409, 503)
            else {},
            "content": {
                "application/json": {
                    "examples": {
                        code: {"value": {"error": WHEN[status], "detail": None, "code": code}}
                        for code in ERRORS[status]
                    }
                }
            },
        }
        for status in statuses
    }


CHUNK = {
    "type": "object",
    "required": ["chunk"],
    "properties": {
        "chunk": {"type": "string", "description": "A piece of the answer"},
        "done": {"type": "boolean", "description": "Whether this is the last event"},
        "metadata": {"type": ["object", "null"], "description": "On the last event: how it went"},
    },
}
GOOD = """data: {"chunk": "Hi", "done": false, "metadata": {"agent": "supervisor"}}

data: {"chunk": "", "done": true, "metadata": {"session_id": "walkthrough", "stopped": null}}

"""
BAD = """data: {"chunk": "Hi", "done": false, "metadata": {"agent": "supervisor"}}

data: {"chunk": "", "done": true, "metadata":
data:   {"error": {"error": "No usable answer.", "detail": null, "code": "model_error"}}}

"""
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events. The last is `done`; it has an `error` if something went wrong.",
        "content": {
            "text/event-stream": {
                "itemSchema": {"properties": {"data": {"contentSchema": CHUNK}}},
                "examples": {"well": {"value": GOOD}, "badly": {"value": BAD}},
            }
        },
    }
}
QUESTIONS = {
    "requestBody": {
        "content": {
            "application/json": {
                "examples": {
                    "first": {"value": {"query": "Good morning?"}},
                    "next": {"value": {"query": "And now?", "session_id": "walkthrough"}},
                }
            }
        }
    }
}
Id = Annotated[
    str,
    Path(description="Which session", openapi_examples={"one": {"value": "walkthrough"}}),
]

router = APIRouter(generate_unique_id_function=lambda route: route.name)


@router.get("/", summary="Say what this is", tags=["Operations"])
async def root() -> ServiceInfo:
    """Title, version and links to other pages."""
    return ServiceInfo(title="Agent service, exercise 5", version="1.0.0")


@router.get("/health", summary="Say whether it answers", tags=["Operations"])
async def health() -> Health:
    """Answers as long as the process lives."""
    return Health()


@router.post(
    "/api/v1/query",
    summary="Answer in one piece",
    tags=["Agent"],
    responses=errors(*ERRORS),
    openapi_extra=QUESTIONS,
)
async def query(request: PlainQueryRequest, service: AgentServiceDep) -> QueryResponse:
    """Waits for the whole answer, then sends it."""
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
    summary="Answer piece by piece",
    tags=["Agent"],
    response_class=EventStream,
    responses={**STREAMED, **errors(409, 413, 422, 502, 503, 504)},
    openapi_extra=QUESTIONS,
)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    """Sends what the model says at once."""
    return stream


@router.get(
    "/api/v1/session/{session_id}",
    summary="Show one session",
    tags=["Sessions"],
    responses=errors(404, 422),
)
async def get_session(
    session_id: Id,
    service: AgentServiceDep,
    include: Annotated[
        Literal["messages"] | None, Query(description="What to add", examples=["messages"])
    ] = None,
) -> SessionInfo:
    """Its times and its length, with `include` its words."""
    return await service.get_session_info(session_id, with_messages=include == "messages")


@router.delete(
    "/api/v1/session/{session_id}",
    summary="Forget one session",
    tags=["Sessions"],
    responses=errors(404, 422),
)
async def delete_session(session_id: Id, service: AgentServiceDep) -> SessionDeleted:
    """There is no way to bring it back."""
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@router.get(
    "/api/v1/sessions",
    summary="Show many sessions",
    tags=["Sessions"],
    responses=errors(422),
)
async def list_sessions(
    service: AgentServiceDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many", examples=[2, 1000])] = 100,
    cursor: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,18}$", description="Where to go on", examples=["5"])
    ] = None,
) -> SessionList:
    """The newest first, a page at a time."""
    return await service.list_sessions(limit, cursor)
