"""Errors in one form: a single place that turns any exception into an answer."""

import logging
import traceback
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import AgentError
from shared.models import ErrorResponse, StreamChunk

log = logging.getLogger("incidents")


@dataclass(frozen=True)
class Told:
    """What a client is told."""

    status: int
    code: str
    error: str
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> ErrorResponse:
        return ErrorResponse(error=self.error, detail=self.detail, code=self.code)


FIXED = {
    400: Told(422, "validation_error", "The body cannot be read."),
    401: Told(401, "unauthorized", "Show credentials that are valid."),
    404: Told(404, "not_found", "Nothing is here."),
    405: Told(405, "method_not_allowed", "Not with this method."),
    413: Told(413, "too_large", "The body is too large."),
}


def tell(exc: Exception) -> Told:
    match exc:
        case RequestValidationError():
            return Told(422, "validation_error", "Not valid.", places(exc))
        case HTTPException():
            known = FIXED.get(exc.status_code, Told(exc.status_code, "refused", "Refused."))
            return Told(known.status, known.code, known.error, None, dict(exc.headers or {}))
        case AgentError() if exc.code != "internal_error":
            wait = {} if exc.retry_after is None else {"Retry-After": f"{exc.retry_after}"}
            return Told(exc.status, exc.code, exc.error, exc.detail, wait)
    id_ = str(uuid4())
    log.critical("".join([f"incident {id_}\n", *traceback.format_exception(exc)]))
    return Told(500, "internal_error", "This is our fault.", f"Tell us: incident {id_}")


def places(exc: RequestValidationError) -> str:
    known = ("path", "query", "body", "header")
    found = []
    for error in exc.errors():
        place = [str(part) for part in error["loc"]]
        is_theirs = error["type"] in ("extra_forbidden", "json_invalid")
        found.append(place[0] if is_theirs or place[0] not in known else ".".join(place))
    return ", ".join(found)


def add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, exc: Exception) -> Response:
        told = tell(exc)
        headers = dict(told.headers)
        if told.status == 405:
            methods = set()
            for path, operations in app.openapi()["paths"].items():
                pattern = path.replace("{session_id}", request.url.path.rpartition("/")[2])
                if pattern == request.url.path:
                    methods |= {method.upper() for method in operations}
            headers["Allow"] = ", ".join(sorted(methods))
        return JSONResponse(told.body().model_dump(), told.status, headers)

    for family in (AgentError, RequestValidationError, HTTPException):
        app.add_exception_handler(family, answer)
    app.add_middleware(LastResort)


class LastResort:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent: list[str] = []

        async def remember(message: Message) -> None:
            sent.append(message["type"])
            await send(message)

        try:
            await self.app(scope, receive, remember)
        except Exception as exc:
            if sent or scope["type"] != "http":
                raise
            told = tell(exc)
            await JSONResponse(told.body().model_dump(), told.status)(scope, receive, send)


async def tell_in_last_event(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    count = 0
    try:
        while True:
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except Exception as exc:
                if count == 0:
                    raise
                error = tell(exc).body().model_dump()
                yield StreamChunk(chunk="", done=True, metadata={"error": error})
                return
            count += 1
            yield chunk
    finally:
        await chunks.aclose()
