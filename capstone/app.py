"""One replica: the advanced app, with the solutions of its exercises in their places.

`uvicorn --factory capstone.app:create` serves it; `python -m capstone` starts everything around it.

Of the medium exercises the validation applies: what reaches the model is clean. The limit for each
session and the deadlines make ids for new sessions, which here only the store may; errors and
documentation are about the medium app's routes.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from pydantic import Field, SecretStr, ValidationError

from advanced.app.agent_service import ProductionAgentService
from advanced.app.config import Settings
from advanced.app.dependencies import get_agent_service
from advanced.app.main import create_app
from exercises.advanced.ex03_rate_limiting_middleware.callers import user_of
from shared.errors import AgentError
from shared.models import QueryResponse, StreamChunk
from shared.web.edge import Middleware
from solutions.advanced.ex01_distributed_tracing.tracing import (
    AgentSpans,
    ServerSpans,
    add_trace_id,
    exporting,
    tracer_provider,
)
from solutions.advanced.ex02_postgresql_sessions.postgres_sessions import PostgresSessions
from solutions.advanced.ex03_rate_limiting_middleware.rate_limit import (
    RateLimitMiddleware,
    TokenBuckets,
    connect,
)
from solutions.medium.ex01_validation_and_sanitisation.validation import Question, refusal


class CapstoneSettings(Settings):
    """The app's own, and those that the exercises add."""

    DATABASE_URL: SecretStr
    RATE_LIMIT_PER_SECOND: float = Field(default=1.0, gt=0)
    RATE_LIMIT_BURST: int = Field(default=60, ge=1)


def create() -> FastAPI:
    # The app's own server spans and its limit per worker make room for the exercises'.
    settings = CapstoneSettings(ENABLE_TRACING=False, RATE_LIMIT_ENABLED=False)
    provider = tracer_provider(settings)
    sessions = PostgresSessions(
        settings.DATABASE_URL.get_secret_value(),
        ttl=timedelta(seconds=settings.SESSION_TTL),
        limit=settings.MAX_SESSIONS,
    )
    app = create_app(
        settings,
        outermost=[rate_limit(settings), partial(ServerSpans, provider=provider)],
        open_conversations=lambda _: sessions,
        callbacks=[AgentSpans(provider)],
    )
    app.dependency_overrides[get_agent_service] = get_clean_service
    open_service = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for handler in logging.getLogger().handlers:
            handler.addFilter(add_trace_id)
        async with exporting(provider, settings), open_service(app):
            yield

    app.router.lifespan_context = lifespan
    return app


def rate_limit(settings: CapstoneSettings) -> Middleware:
    buckets = TokenBuckets(
        connect(settings),
        per_second=settings.RATE_LIMIT_PER_SECOND,
        burst=settings.RATE_LIMIT_BURST,
        timeout=0.25,
        pause=1.0,
    )
    return partial(
        RateLimitMiddleware, buckets=buckets, user_of=user_of, proxies=settings.TRUSTED_PROXIES
    )


class InvalidQuestion(AgentError):
    """What is left of a question, once it is clean, cannot be asked."""

    status = 422
    code = "validation_error"
    error = "The request is not valid."


class CleanAgentService:
    """The agent's service, with the medium track's validation before every turn."""

    def __init__(self, service: ProductionAgentService) -> None:
        self._service = service

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        return await self._service.process_query(cleaned(query), session_id, max_iterations)

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        chunks = self._service.stream_query(cleaned(query), session_id, max_iterations)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def __getattr__(self, name: str) -> Any:
        """Reading and deleting sessions is the service's own."""
        return getattr(self._service, name)


def cleaned(query: str) -> str:
    """Raises InvalidQuestion."""
    try:
        return Question(query=query).query
    except ValidationError as exc:
        raise InvalidQuestion(refusal(exc.errors()).detail) from None


async def get_clean_service(request: Request) -> CleanAgentService:
    return CleanAgentService(await get_agent_service(request))
