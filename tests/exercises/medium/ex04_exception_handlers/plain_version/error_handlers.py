"""The course's own `shared/web/errors.py`, as it is, and its service's way with streams."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import AgentError
from shared.models import ErrorResponse, StreamChunk

logger = logging.getLogger(__name__)

VALIDATION = ErrorResponse(error="The request is not valid.", code="validation_error")
INTERNAL = AgentError().as_response()
TOO_LARGE = ErrorResponse(error="The request body is larger than 64 KiB.", code="too_large")
NOT_FOUND = ErrorResponse(error="There is nothing at this address.", code="not_found")
NOT_ALLOWED = ErrorResponse(
    error="This address does not take that method.", code="method_not_allowed"
)
BY_STATUS = {404: NOT_FOUND, 405: NOT_ALLOWED, 413: TOO_LARGE}


def add_error_handlers(app: FastAPI) -> None:
    app.exception_handler(AgentError)(on_agent_error)
    app.exception_handler(RequestValidationError)(on_validation_error)
    app.exception_handler(HTTPException)(on_http_exception)
    app.add_middleware(ErrorBoundary)


async def on_agent_error(_: Request, exc: AgentError) -> JSONResponse:
    headers = {} if exc.retry_after is None else {"Retry-After": str(exc.retry_after)}
    return as_json(exc.status, exc.as_response(), headers)


async def on_validation_error(_: Request, exc: RequestValidationError) -> JSONResponse:
    detail = "; ".join(dict.fromkeys(complaint(error) for error in exc.errors()))
    return as_json(422, VALIDATION.model_copy(update={"detail": detail}))


async def on_http_exception(request: Request, exc: HTTPException) -> JSONResponse:
    """What the framework refuses by itself: 404, 405, 413, and bodies that it cannot read."""
    if exc.detail == "There was an error parsing the body":  # FastAPI's, with a 400
        return as_json(422, VALIDATION.model_copy(update={"detail": "body: not readable JSON"}))
    headers = {"Allow": allowed(request)} if exc.status_code == 405 else exc.headers
    refused = ErrorResponse(error="The request was refused.", code=f"http_{exc.status_code}")
    return as_json(exc.status_code, BY_STATUS.get(exc.status_code, refused), headers)


def allowed(request: Request) -> str:
    """Every method of the path; Starlette names those of the first route that has it."""
    routes, scope = request.app.routes, request.scope
    return ", ".join(
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(r.matches({**scope, "method": method})[0] is Match.FULL for r in routes)
    )


def complaint(error: dict[str, Any]) -> str:
    """Which field, and what is wrong with it; never what was sent."""
    kind, (place, *path) = error["type"], error["loc"]
    if kind == "json_invalid":
        return "body: not readable JSON"
    if kind == "extra_forbidden":  # the name, too, is the client's
        return f"{place}: has a field that is not known here"
    if kind == "model_attributes_type":
        return f"{place}: must be a JSON object, sent as application/json"
    return f"{'.'.join(map(str, path)) or place}: {error['msg']}"


def as_json(status: int, body: ErrorResponse, headers: Any = None) -> JSONResponse:
    return JSONResponse(body.model_dump(), status, headers)


class ErrorBoundary:
    """An exception that nobody foresaw becomes a 500, told to the log alone.

    Starlette would answer it outside of every middleware, without any of our headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            logger.exception("%s failed in a way that nobody foresaw", scope["method"])
            if started:
                raise
            await as_json(500, INTERNAL)(scope, receive, send)
        return None


async def tell_in_last_event(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    told = False
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                told = True
                yield chunk
        except AgentError as exc:
            if not told:
                raise
            error = exc.as_response().model_dump()
            yield StreamChunk(chunk="", done=True, metadata={"error": error})
