"""Opens everything in one block of the lifespan, and sees each request in one place."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse

from advanced.app.agent_service import ProductionAgentService
from advanced.app.cache import CacheService
from advanced.app.config import Settings, get_settings
from advanced.app.dependencies import on_unauthenticated
from advanced.app.edge import RealClient, SecurityHeaders
from advanced.app.errors import Unauthenticated
from advanced.app.flights import Flights
from advanced.app.health import Check, Dependencies
from advanced.app.login_failures import StoredLoginFailures
from advanced.app.logs import configure_logs
from advanced.app.monitoring import FAILURES, refusals
from advanced.app.request_log import RequestLog
from advanced.app.resources import (
    Conversations,
    open_model,
    open_redis_link,
    open_sessions,
    rate_limiter,
)
from advanced.app.routes import agent, auth, health, metrics
from advanced.app.security import open_authentication
from advanced.app.tracing import apply_tracing, exporting, tracer_provider
from shared.errors import AgentError, ConfigurationError
from shared.llm import reachable
from shared.models import ServiceInfo
from shared.playground import playground
from shared.web.edge import Middleware, add_edge
from shared.web.errors import on_agent_error
from shared.web.lifecycle import end_with_the_parent, ending_turns_at_shutdown, sentence

OpenConversations = Callable[[Settings], AbstractAsyncContextManager[Conversations]]


def create_app(
    settings: Settings | None = None,
    *,
    outermost: Sequence[Middleware] = (),
    open_conversations: OpenConversations | None = None,
) -> FastAPI:
    config = settings or get_settings()
    configure_logs(config.log_level, debug=config.DEBUG)
    traces = tracer_provider(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        apply_tracing(config)
        end_with_the_parent()
        async with (
            exporting(traces, config),
            open_sessions(config) as sessions,
            open_redis_link(config) as redis,
            open_model(config) as llm,
            open_authentication(
                config, sessions, StoredLoginFailures(sessions.database)
            ) as authentication,
            aclosing(
                Flights(CacheService(redis, ttl=config.CACHE_TTL, enabled=config.CACHE_ENABLED))
            ) as flights,
        ):
            service = ProductionAgentService(
                llm,
                sessions.checkpoints,
                sessions.of("nobody"),
                flights,
                timeout=config.REQUEST_TIMEOUT,
                turn_wait=config.TURN_WAIT,
                at_once=config.MAX_MODEL_CALLS,
            )
            asked: dict[str, Check | None] = {
                "session_store": sessions.answers,
                "redis": redis.check if redis else None,
                "model": partial(reachable, llm),
            }
            vars(app.state)["_state"] |= {
                "conversations": sessions,
                "authentication": authentication,
                "limiter": rate_limiter(config, redis),
                "dependencies": Dependencies(asked),
                "agent_service": service,
            }
            async with ending_turns_at_shutdown(service.turns):
                yield

    docs = "/docs" if config.DOCS_ENABLED else None
    app = FastAPI(
        title=config.API_TITLE,
        version=config.API_VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=docs,
        redoc_url=None,
        openapi_url=docs and "/openapi.json",
    )
    app.state.settings = config
    app.state.cors_origins = config.CORS_ORIGINS
    app.state.cors_credentials = config.CORS_ALLOW_CREDENTIALS
    https = config.ENVIRONMENT == "production"
    real_client = partial(RealClient, proxies=config.TRUSTED_PROXIES)
    add_edge(app, RequestLog, real_client, partial(SecurityHeaders, https=https))
    app.add_exception_handler(AgentError, refuse)

    @app.get("/")
    async def root() -> ServiceInfo:
        return ServiceInfo(title=config.API_TITLE, version=config.API_VERSION)

    page = playground(config.API_PREFIX, login=True)
    for router in (health.router, page, *([metrics.router] * config.ENABLE_METRICS)):
        app.include_router(router)
    for router in (auth.router, agent.router):
        app.include_router(router, prefix=config.API_PREFIX)
    for middleware in outermost:
        app.add_middleware(middleware)
    return app


async def refuse(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, AgentError)
    if exc.code not in FAILURES:
        refusals.labels(exc.code).inc()
    if isinstance(exc, Unauthenticated):
        return await on_unauthenticated(request, exc)
    return await on_agent_error(request, exc)


@cache
def the_app() -> FastAPI:
    try:
        return create_app()
    except (ConfigurationError, ValidationError) as exc:
        sys.exit(sentence(exc))


def __getattr__(name: str) -> FastAPI:
    if name == "app":
        return the_app()
    raise AttributeError(name)
