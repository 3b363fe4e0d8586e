"""What OpenAPI says about refusals and events: every status, with its schema and its examples."""

from typing import Any

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
from shared.models import ErrorResponse, StreamChunk
from shared.web.errors import INTERNAL, TOO_LARGE, VALIDATION
from shared.web.streaming import as_event

Responses = dict[int | str, dict[str, Any]]

_WAIT = {
    "Retry-After": {
        "description": "Seconds to wait before trying again",
        "schema": {"type": "integer"},
    }
}
_CHALLENGE = {
    "WWW-Authenticate": {
        "description": "What to send instead (RFC 6750)",
        "schema": {"type": "string"},
    }
}
_HEADERS = {401: _CHALLENGE, 409: _WAIT, 429: _WAIT, 503: _WAIT}


def described(status: int, *errors: ErrorResponse) -> dict[str, Any]:
    examples = {error.code: {"value": error.model_dump()} for error in errors}
    documented: dict[str, Any] = {
        "model": ErrorResponse,
        "description": " Or: ".join(error.error for error in errors),
        "content": {"application/json": {"examples": examples}},
    }
    if status in _HEADERS:
        documented["headers"] = _HEADERS[status]
    return documented


def refusals(*errors: type[AgentError]) -> Responses:
    """The errors by status, with those that any request may meet."""
    by_status: dict[int, list[ErrorResponse]] = {422: [VALIDATION], 500: [INTERNAL]}
    for error in errors:
        by_status.setdefault(error.status, []).append(error().as_response())
    return {status: described(status, *by_status[status]) for status in sorted(by_status)}


_TURN = (SessionNotFound, SessionBusy, ModelError, ModelUnavailable, Overloaded, ModelTimeout)
_BODY: Responses = {413: described(413, TOO_LARGE)}


def session_errors(*more: type[AgentError]) -> Responses:
    """What an endpoint for one session may answer, and `more` that this app refuses with."""
    return refusals(SessionNotFound, *more)


def turn_errors(*more: type[AgentError]) -> Responses:
    return {**refusals(UseStreamEndpoint, *_TURN, *more), **_BODY}


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
_STREAM = {
    "description": "Server-sent events: each `data:` holds a StreamChunk as JSON. Only the "
    "last has `done: true`; if the answer failed on its way, its `metadata.error` says how.",
    "content": {
        "text/event-stream": {
            "schema": {"type": "array", "items": _EVENT},
            "itemSchema": _EVENT,  # the same, as OpenAPI 3.2 says it
            "examples": {
                "answered": events(*_BEGINNING, StreamChunk(done=True, chunk="", metadata=_LAST)),
                "failed on its way": events(
                    _BEGINNING[1], StreamChunk(done=True, chunk="", metadata=_CUT_SHORT)
                ),
            },
        }
    },
}


def stream_responses(*more: type[AgentError]) -> Responses:
    return {200: _STREAM, **refusals(*_TURN, *more), **_BODY}
