"""Another design: an exit stack, and no turns to end at the shutdown."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from medium.app.config import Settings
from medium.app.routes.agent import router
from shared.agent_service import AgentService
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.models import Health, ServiceInfo
from shared.playground import router as playground
from shared.web.edge import add_edge


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings()
    app.state.cors_origins = settings.CORS_ORIGINS
    key = settings.OPENAI_API_KEY.get_secret_value() if settings.OPENAI_API_KEY else None
    memory = LatestCheckpoints()
    async with AsyncExitStack() as stack:
        llm = await stack.enter_async_context(
            open_llm(model=settings.OPENAI_MODEL, api_key=key, base_url=settings.OPENAI_BASE_URL)
        )
        app.state.agent_service = AgentService(
            llm,
            memory,
            MemorySessions(memory, limit=settings.MAX_SESSIONS),
            timeout=settings.REQUEST_TIMEOUT,
            turn_wait=settings.TURN_WAIT,
        )
        yield


app = FastAPI(title="My agent", version="0.1", lifespan=lifespan, redirect_slashes=False)
add_edge(app)
app.include_router(router)
app.include_router(playground)


@app.get("/")
async def root() -> ServiceInfo:
    """What this is."""
    return ServiceInfo(title=app.title, version=app.version)


@app.get("/health")
async def health_check() -> Health:
    """Whether it is well."""
    return Health()
