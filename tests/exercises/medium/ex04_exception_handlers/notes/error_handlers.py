"""Errors in one form: functions for the known ones, FastAPI's middleware for the rest.

The incident's id is a note on the exception, so that the traceback itself carries it.
"""

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import JSONResponse, Response

from shared.errors import AgentError
from shared.models import ErrorResponse, StreamChunk

CODES = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(AgentError)
    async def agent_error(_: Request, exc: AgentError) -> Response:
        headers = {"Retry-After": str(exc.retry_after)} if exc.retry_after else None
        return JSONResponse(describe(exc), exc.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, exc: RequestValidationError) -> Response:
        fields = {str(part) for error in exc.errors() for part in error["loc"]}
        ours = sorted(fields & {"query", "session_id", "stream", "max_iterations", "include"})
        return said(422, "validation_error", f"Look at: {', '.join(ours) or 'the body'}")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, exc: HTTPException) -> Response:
        if exc.detail == "There was an error parsing the body":
            return said(422, "validation_error", "The body cannot be read.")
        response = said(exc.status_code, CODES.get(exc.status_code, "refused"))
        response.headers.update(exc.headers or {})
        if exc.status_code == 405:
            response.headers["Allow"] = "GET, DELETE" if "/session/" in request.url.path else "POST"
        return response

    @app.middleware("http")
    async def nobody_else(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Exception as exc:  # noqa: BLE001 - what nobody else caught
            return JSONResponse(describe(exc), 500)


def said(status: int, code: str, detail: str | None = None) -> JSONResponse:
    words = f"The request was refused with {status}."
    return JSONResponse({"error": words, "detail": detail, "code": code}, status)


def describe(exc: Exception) -> dict[str, str | None]:
    if isinstance(exc, AgentError) and exc.__class__ is not AgentError:
        return exc.as_response().model_dump()
    note = f"incident {secrets.token_urlsafe(12)}"
    exc.add_note(note)
    logging.exception("a bug", exc_info=exc)
    return ErrorResponse(error="A bug.", detail=note, code="internal_error").model_dump()


async def tell_in_last_event(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    async with aclosing(chunks):
        yield await anext(chunks)
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as exc:  # noqa: BLE001 - told in the last event, and to the log
            yield StreamChunk(chunk="", done=True, metadata={"error": describe(exc)})
