"""Your part: the application. Served as `medium/app/main.py`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from medium.app.config import Settings
from medium.app.routes import agent
from shared.models import Health, ServiceInfo
from shared.playground import router as playground

TITLE = "Agent service, medium track"
VERSION = "1.0.0"


router = APIRouter(tags=["service"])


@router.get("/")
async def root() -> ServiceInfo:
    """What this service is, and where to go next."""
    raise NotImplementedError("TODO 1: say the title and the version")


@router.get("/health")
async def health_check() -> Health:
    """Whether the process answers; it asks nobody else."""
    raise NotImplementedError("TODO 2: say that the process answers")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application. Without `settings` they are read when it starts, not before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # TODO 3: read the settings; open the model with open_llm (shared/llm.py), which wants the
        # key's text or None, and the key is a SecretStr: get_secret_value() has its text. Make
        # LatestCheckpoints, MemorySessions (shared/memory.py) and the AgentService, and keep it
        # as app.state.agent_service while the service runs. The edge looks for
        # app.state.cors_origins. At the end, ending_turns_at_shutdown (shared/web/lifecycle.py).
        yield

    app = FastAPI(title=TITLE, version=VERSION, lifespan=lifespan, redirect_slashes=False)
    # TODO 3, too: add the edge (shared/web/edge.py), which turns errors into answers.
    app.include_router(router)
    app.include_router(agent.router)
    app.include_router(playground)
    return app


app = create_app()
