"""Your part: what clients are told when something goes wrong, and what the log is told."""

import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import AgentError
from shared.models import ErrorResponse, StreamChunk


def add_error_handlers(app: FastAPI) -> None:
    """Called once, after the routes are there and before the outermost middleware is."""
    app.exception_handler(AgentError)(on_agent_error)
    app.exception_handler(RequestValidationError)(on_invalid_request)
    app.exception_handler(HTTPException)(on_http_exception)
    app.add_middleware(IncidentBoundary)


def incident(exc: Exception) -> ErrorResponse:
    """Tell the log everything about what nobody foresaw, and the client an id to quote."""
    raise NotImplementedError("TODO 1: make an id, log it with the traceback, answer with it")


class IncidentBoundary:
    """Middleware around the routes: an exception that no handler took is an incident."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            todo: Exception = NotImplementedError("TODO 2: answer with 500 and the incident")
            if isinstance(exc, NotImplementedError):  # another TODO, which says so itself
                todo = exc
            logging.error("There is something left to do", exc_info=todo)
            raise todo from exc.__cause__


async def on_agent_error(request: Request, exc: AgentError) -> JSONResponse:
    raise NotImplementedError("TODO 3: the error's own status, its words, its Retry-After")


async def on_invalid_request(request: Request, exc: RequestValidationError) -> JSONResponse:
    raise NotImplementedError("TODO 4: 422, saying which field, and nothing that was sent")


async def on_http_exception(request: Request, exc: HTTPException) -> JSONResponse:
    raise NotImplementedError("TODO 5: what the framework refuses, in our words, headers kept")


def as_json(status: int, body: ErrorResponse, headers: Any = None) -> JSONResponse:
    return JSONResponse(body.model_dump(), status, headers)


async def tell_in_last_event(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    """Pass the chunks on. A failure after the first one becomes the last event; before it, a raise.

    Closing this closes `chunks`, which stops the model.
    """
    raise NotImplementedError("TODO 6: catch what goes wrong after the first chunk")
    yield StreamChunk(chunk="")
