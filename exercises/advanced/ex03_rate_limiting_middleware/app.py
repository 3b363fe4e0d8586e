"""The advanced service with your middleware in front of everything. Given; it is not handed in.

`uvicorn exercises.advanced.ex03_rate_limiting_middleware.app:app` serves it. Without REDIS_HOST it
brings a Redis of its own.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import cache, partial
from pathlib import Path

from fastapi import FastAPI, WebSocket
from pydantic import Field
from pydantic_settings import BaseSettings

from advanced.app.config import ROOT, Settings
from advanced.app.main import create_app
from advanced.embedded_redis import embedded_redis
from shared.web.edge import Middleware

from .callers import user_of
from .wrong_clocks import set_clocks_ahead

app: FastAPI
"""Made when it is first asked for: importing this module reads no setting (see the end)."""


class LimitSettings(BaseSettings):
    """A caller's bucket holds BURST tokens, and PER_SECOND come back each second."""

    RATE_LIMIT_PER_SECOND: float = Field(default=1.0, gt=0)
    RATE_LIMIT_BURST: int = Field(default=10, ge=1)
    RATE_LIMIT_TIMEOUT: float = Field(default=0.25, gt=0)
    """Seconds that a request waits for Redis at most."""
    RATE_LIMIT_PAUSE: float = Field(default=1.0, ge=0)
    """Seconds for which nobody asks a Redis that has just failed."""


class Rehearsal(BaseSettings):
    """For trying two replicas: where they keep their state, and how wrong this one's clocks are."""

    DATA_DIR: Path = ROOT / ".state"
    CLOCKS_AHEAD: float = 0.0


def rate_limiting(settings: Settings, limits: LimitSettings) -> Middleware:
    """Yours, for `create_app(..., outermost=[...])`."""
    # Imported here, so that it never sees the clocks before they were set wrong.
    from .rate_limit import RateLimitMiddleware, TokenBuckets, connect  # noqa: PLC0415

    buckets = TokenBuckets(
        connect(settings),
        per_second=limits.RATE_LIMIT_PER_SECOND,
        burst=limits.RATE_LIMIT_BURST,
        timeout=limits.RATE_LIMIT_TIMEOUT,
        pause=limits.RATE_LIMIT_PAUSE,
    )
    return partial(
        RateLimitMiddleware, buckets=buckets, user_of=user_of, proxies=settings.TRUSTED_PROXIES
    )


def create_limited_app() -> FastAPI:
    rehearsal = Rehearsal()
    set_clocks_ahead(rehearsal.CLOCKS_AHEAD)
    stack = ExitStack()
    if not os.environ.get("REDIS_HOST"):
        os.environ.update(stack.enter_context(embedded_redis()).environment)
    # The app's own limit, a dependency of its routes, is off: yours takes its place.
    settings = Settings(RATE_LIMIT_ENABLED=False, STATE_DIR=rehearsal.DATA_DIR)
    app = create_app(settings, outermost=[rate_limiting(settings, LimitSettings())])
    run = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with stack:
            async with run(app):
                yield

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        """Nothing but a WebSocket: your middleware has no business with it."""
        await socket.accept()
        await socket.close()

    app.router.lifespan_context = lifespan
    tell_in_full()
    return app


def tell_in_full() -> None:
    """The app's log keeps to itself what an exception says; while you build, you want to know."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addHandler(handler)


@cache
def the_app() -> FastAPI:
    return create_limited_app()


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return the_app()
