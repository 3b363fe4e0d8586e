"""As the hand-out has it: catch everything, and send its text."""

from collections.abc import AsyncGenerator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response

from shared.errors import AgentError
from shared.models import StreamChunk


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(AgentError)
    async def agent_failed(_: Request, exc: AgentError) -> Response:
        return failed(exc)

    @app.middleware("http")
    async def catch_all(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Exception as e:  # noqa: BLE001 - what is wrong with it
            return failed(e)


def failed(exc: Exception) -> Response:
    return JSONResponse({"error": str(exc), "detail": None, "code": "internal_error"}, 500)


async def tell_in_last_event(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as e:  # noqa: BLE001 - what is wrong with it
        yield StreamChunk(chunk=f"Error: {e}", done=True)
