"""The advanced track's application: `make advanced`, or `uvicorn advanced.app.main:app`."""

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from langchain_core.callbacks import BaseCallbackHandler
from pydantic import ValidationError
from starlette.responses import Response

from shared.errors import AgentError, ConfigurationError
from shared.llm import reachable
from shared.models import ServiceInfo
from shared.playground import playground
from shared.web.edge import Middleware, add_edge
from shared.web.errors import on_agent_error
from shared.web.lifecycle import end_with_the_parent, ending_turns_at_shutdown, sentence

from .agent_service import ProductionAgentService
from .cache import CacheService
from .config import Settings, get_settings
from .dependencies import on_unauthenticated
from .edge import RealClient, SecurityHeaders
from .errors import Unauthenticated
from .flights import Flights
from .health import Dependencies
from .login_failures import StoredLoginFailures
from .logs import configure_logs
from .monitoring import FAILURES, RequestMetrics, refusals
from .request_log import RequestLog
from .resources import Conversations, open_model, open_redis_link, open_sessions, rate_limiter
from .routes import agent, auth, health, metrics
from .security import open_authentication
from .tracing import apply_tracing, exporting, tracer_provider

SELDOM = (20_000, 20, 50)
"""For the garbage collector: by default a turn, which makes thousands of objects that all go by
themselves, has it look through the young ones a dozen times."""

app: FastAPI
"""Made when it is first asked for: importing this module reads no setting (see the end)."""

router = APIRouter(tags=["service"])


@router.get("/")
async def root(request: Request) -> ServiceInfo:
    """What this service is, and where to go next."""
    return ServiceInfo(title=request.app.title, version=request.app.version)


OpenConversations = Callable[[Settings], AbstractAsyncContextManager[Conversations]]


def create_app(
    settings: Settings | None = None,
    *,
    outermost: Sequence[Middleware] = (),
    callbacks: Sequence[BaseCallbackHandler] = (),
    open_conversations: OpenConversations | None = None,
) -> FastAPI:
    """Build the application. Nothing is opened before it starts.

    `outermost` sees every request before anybody else here, the last one first of all, and the
    lifespan too. `callbacks` are told of every step of the graph, every model call and every tool.
    `open_conversations` is for sessions that are kept elsewhere than in SQLite; tokens that were
    logged out and failed logins stay in STATE_DIR.
    """
    config = settings or get_settings()
    configure_logs(config.log_level, debug=config.DEBUG)
    traces = tracer_provider(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            exporting(traces, config),
            running(app, config, callbacks, open_conversations),
        ):
            yield

    app = FastAPI(
        title=config.API_TITLE,
        version=config.API_VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url="/docs" if config.DOCS_ENABLED else None,
        redoc_url=None,
        openapi_url="/openapi.json" if config.DOCS_ENABLED else None,
        telemetry={
            "tracing": traces is not None,
            "tracer_provider": traces,
            "metrics": False,  # ours are in monitoring.py
            "logs": False,
        },
    )
    app.state.settings = config
    app.state.cors_origins = config.CORS_ORIGINS
    app.state.cors_credentials = config.CORS_ALLOW_CREDENTIALS
    add_edge(app, *observers(config))
    app.exception_handler(AgentError)(counted(on_agent_error))
    app.exception_handler(Unauthenticated)(counted(on_unauthenticated))
    app.include_router(router)
    app.include_router(health.router)
    if config.ENABLE_METRICS:
        app.include_router(metrics.router)
    app.include_router(auth.router, prefix=config.API_PREFIX)
    app.include_router(agent.router, prefix=config.API_PREFIX)
    app.include_router(playground(config.API_PREFIX, login=True))
    for middleware in outermost:
        app.add_middleware(middleware)
    return app


@asynccontextmanager
async def running(
    app: FastAPI,
    config: Settings,
    callbacks: Sequence[BaseCallbackHandler],
    open_conversations: OpenConversations | None,
) -> AsyncIterator[None]:
    """Everything that lives and dies with the application, in the order in which it is needed."""
    apply_tracing(config)
    end_with_the_parent()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        sessions = await enter(open_sessions(config))
        conversations: Conversations = sessions
        if open_conversations is not None:
            conversations = await enter(open_conversations(config))
        redis = await enter(open_redis_link(config))
        llm = await enter(open_model(config))
        failures = StoredLoginFailures(sessions.database)
        app.state.conversations = conversations
        app.state.authentication = await enter(open_authentication(config, sessions, failures))
        app.state.limiter = rate_limiter(config, redis)
        app.state.dependencies = Dependencies(
            {
                "session_store": conversations.answers,
                "redis": redis.check if redis else None,
                "model": partial(reachable, llm),
            }
        )
        cache = CacheService(redis, ttl=config.CACHE_TTL, enabled=config.CACHE_ENABLED)
        flights = Flights(cache)
        stack.push_async_callback(flights.aclose)
        service = ProductionAgentService(
            llm,
            conversations.checkpoints,
            conversations.of(""),
            flights,
            timeout=config.REQUEST_TIMEOUT,
            turn_wait=config.TURN_WAIT,
            at_once=config.MAX_MODEL_CALLS,
            callbacks=callbacks,
        )
        app.state.agent_service = service
        await enter(ending_turns_at_shutdown(service.turns))
        gc.freeze()
        gc.set_threshold(*SELDOM)
        yield


def observers(config: Settings) -> list[Middleware]:
    """Who sees every request and every response; the last one is the first to see a request."""
    metrics = [RequestMetrics] if config.ENABLE_METRICS else []
    return [
        *metrics,
        RequestLog,
        partial(RealClient, proxies=config.TRUSTED_PROXIES),
        partial(SecurityHeaders, https=config.ENVIRONMENT == "production"),
    ]


Handler = Callable[[Request, Any], Awaitable[Response]]


def counted(handler: Handler) -> Handler:
    """The handler, after the refusal has been counted."""

    async def handle(request: Request, exc: AgentError) -> Response:
        if exc.code not in FAILURES:
            refusals.labels(exc.code).inc()
        return await handler(request, exc)

    return handle


@cache
def the_app() -> FastAPI:
    try:
        return create_app()
    except (ConfigurationError, ValidationError) as exc:
        sys.exit(sentence(exc))


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return the_app()
