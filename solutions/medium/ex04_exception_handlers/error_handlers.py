"""What clients are told when something goes wrong, and what the log is told."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import AgentError
from shared.models import ErrorResponse, StreamChunk

logger = logging.getLogger(__name__)

INVALID = ErrorResponse(error="The request is not valid.", code="validation_error")
INTERNAL = AgentError().as_response()
BY_STATUS = {
    401: ErrorResponse(error="This needs credentials that are valid.", code="unauthorized"),
    404: ErrorResponse(error="There is nothing at this address.", code="not_found"),
    405: ErrorResponse(error="This address has no such method.", code="method_not_allowed"),
    413: ErrorResponse(error="The request body is too large.", code="too_large"),
}
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def add_error_handlers(app: FastAPI) -> None:
    """Called once, after the routes are there and before the outermost middleware is."""
    app.exception_handler(AgentError)(on_agent_error)
    app.exception_handler(RequestValidationError)(on_invalid_request)
    app.exception_handler(HTTPException)(on_http_exception)
    app.add_middleware(IncidentBoundary)


def incident(exc: Exception) -> ErrorResponse:
    """Tell the log everything about what nobody foresaw, and the client an id to quote."""
    id_ = uuid4().hex
    logger.error("incident %s", id_, exc_info=exc)
    return INTERNAL.model_copy(update={"detail": f"incident {id_}"})


class IncidentBoundary:
    """Middleware around the routes: an exception that no handler took is an incident."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as exc:
            if started or scope["type"] != "http":
                raise
            await as_json(500, incident(exc))(scope, receive, send)


async def on_agent_error(request: Request, exc: AgentError) -> JSONResponse:
    headers = {} if exc.retry_after is None else {"Retry-After": str(exc.retry_after)}
    return as_json(exc.status, _told(exc), headers)


def _told(exc: Exception) -> ErrorResponse:
    """An error that has a name, or else an incident. A bug in a turn comes as a bare AgentError."""
    if isinstance(exc, AgentError) and type(exc) is not AgentError:
        return exc.as_response()
    return incident(exc)


async def on_invalid_request(request: Request, exc: RequestValidationError) -> JSONResponse:
    detail = "; ".join(dict.fromkeys(map(_complaint, exc.errors())))
    return as_json(422, INVALID.model_copy(update={"detail": detail}))


def _complaint(error: dict[str, Any]) -> str:
    """Which field of ours, and what is wrong with it. A field of theirs is their input."""
    place, *path = error["loc"]
    if error["type"] == "json_invalid":
        return "body: not readable as JSON"
    if error["type"] == "extra_forbidden":
        return f"{place}: has a field that is not known here"
    return f"{'.'.join(map(str, path)) or place}: {error['msg']}"


async def on_http_exception(request: Request, exc: HTTPException) -> JSONResponse:
    if exc.status_code == 400:  # FastAPI's own, for a body that it cannot even decode
        return as_json(422, INVALID.model_copy(update={"detail": "body: not readable as JSON"}))
    other = ErrorResponse(error="The request was refused.", code=f"http_{exc.status_code}")
    headers = {"Allow": _allowed(request)} if exc.status_code == 405 else exc.headers
    return as_json(exc.status_code, BY_STATUS.get(exc.status_code, other), headers)


def _allowed(request: Request) -> str:
    """Every method of this address; the exception names those of one route alone."""
    return ", ".join(
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    )


def as_json(status: int, body: ErrorResponse, headers: Any = None) -> JSONResponse:
    return JSONResponse(body.model_dump(), status, headers)


async def tell_in_last_event(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    """Pass the chunks on. A failure after the first one becomes the last event; before it, a raise.

    Closing this closes `chunks`, which stops the model.
    """
    started = False
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                started = True
                yield chunk
        except Exception as exc:
            if not started:
                raise
            error = _told(exc).model_dump()
            yield StreamChunk(chunk="", done=True, metadata={"error": error})
