"""The advanced service without tracing, and yours around it. Given; it is not handed in.

`uvicorn exercises.advanced.ex01_distributed_tracing.app:app` serves it. The one user is carol.
"""

import logging
import tempfile
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.main import create_app
from advanced.app.users import set_password

from .tracing import AgentSpans, ServerSpans, add_trace_id, exporting, tracer_provider

PASSWORD = "carols-own-password"  # noqa: S105 - it opens a service that is thrown away
CHEAP = 4  # bcrypt's least work factor


class Unfinished:
    """Says what is left to do. The service's own log keeps an exception's words to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except NotImplementedError as exc:
            if scope["type"] != "http":
                raise
            traceback.print_exc()
            await PlainTextResponse(f"{exc}\n", 501)(scope, receive, send)


state = tempfile.TemporaryDirectory(prefix="ex01-")
settings = Settings(ENABLE_TRACING=False, DEMO_USERS=False, STATE_DIR=Path(state.name))
provider = tracer_provider(settings)
app = create_app(
    settings,
    outermost=[partial(ServerSpans, provider=provider), Unfinished],
    callbacks=[AgentSpans(provider)],
)
open_service = app.router.lifespan_context


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with state:
        set_password(settings.USERS_FILE, "carol", PASSWORD, cost=CHEAP)
        for handler in logging.getLogger().handlers:
            handler.addFilter(add_trace_id)
        async with exporting(provider, settings), open_service(app):
            yield


app.router.lifespan_context = lifespan
