"""The medium track's application: `make medium`, or `uvicorn medium.app.main:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from shared.agent_service import AgentService
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.models import Health, ServiceInfo
from shared.playground import router as playground
from shared.web.edge import add_edge
from shared.web.lifecycle import ending_turns_at_shutdown

from .config import Settings
from .routes import agent

TITLE = "Agent service, medium track"
VERSION = "1.0.0"


router = APIRouter(tags=["service"])


@router.get("/")
async def root() -> ServiceInfo:
    """What this service is, and where to go next."""
    return ServiceInfo(title=TITLE, version=VERSION)


@router.get("/health")
async def health_check() -> Health:
    """Whether the process answers; it asks nobody else."""
    return Health()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application. Without `settings` they are read when it starts, not before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        config = settings or Settings()
        app.state.cors_origins = config.CORS_ORIGINS
        memory = LatestCheckpoints()
        sessions = MemorySessions(memory, limit=config.MAX_SESSIONS)
        key = config.OPENAI_API_KEY
        async with open_llm(
            model=config.OPENAI_MODEL,
            api_key=key.get_secret_value() if key else None,
            base_url=config.OPENAI_BASE_URL,
        ) as llm:
            service = AgentService(
                llm,
                memory,
                sessions,
                timeout=config.REQUEST_TIMEOUT,
                turn_wait=config.TURN_WAIT,
            )
            app.state.agent_service = service
            async with ending_turns_at_shutdown(service.turns):
                yield

    app = FastAPI(title=TITLE, version=VERSION, lifespan=lifespan, redirect_slashes=False)
    add_edge(app)
    app.include_router(router)
    app.include_router(agent.router)
    app.include_router(playground)
    return app


app = create_app()
