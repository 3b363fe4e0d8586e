"""Your part: the application. Served as advanced/app/main.py."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from langchain_core.callbacks import BaseCallbackHandler
from pydantic import ValidationError
from starlette.responses import Response

from advanced.app.config import Settings, get_settings
from advanced.app.logs import configure_logs
from advanced.app.monitoring import FAILURES, refusals
from advanced.app.resources import Conversations, open_sessions
from advanced.app.tracing import apply_tracing, exporting, tracer_provider
from shared.errors import AgentError, ConfigurationError
from shared.models import ServiceInfo
from shared.playground import playground
from shared.web.edge import Middleware
from shared.web.lifecycle import end_with_the_parent, sentence

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
    # TODO 5: the edge (shared/web/edge.py) with the observers; it looks for app.state.cors_origins
    # and app.state.cors_credentials. The handlers for AgentError and for Unauthenticated
    # (dependencies.py has its challenge), both counted. Then the routers: those of the health,
    # of the metrics if they are wanted, of the login and of the agent below API_PREFIX.
    app.include_router(router)
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
        app.state.conversations = conversations
        # TODO 6: the rest of what resources.py opens, and what stands on it, kept where the routes
        # and dependencies.py look for it: app.state.authentication, limiter, dependencies and
        # agent_service, which tells the callbacks. The health asks for session_store, redis and
        # model. At the end, ending_turns_at_shutdown (shared/web/lifecycle.py).
        yield


def observers(config: Settings) -> list[Middleware]:
    """Who sees every request and every response; the last one is the first to see a request."""
    raise NotImplementedError(
        "TODO 5: SecurityHeaders, RealClient (edge.py), RequestLog, and RequestMetrics if wanted"
    )


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
