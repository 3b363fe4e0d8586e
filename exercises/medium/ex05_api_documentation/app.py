"""The medium service with your API in front of it. Given; it is not handed in.

`uvicorn exercises.medium.ex05_api_documentation.app:app` serves it; see /docs and /openapi.json.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from medium.app.config import Settings
from shared.agent_service import AgentService
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.web.edge import add_edge
from shared.web.lifecycle import ending_turns_at_shutdown

from .api import DESCRIPTION, TAGS, router


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    config = Settings()
    app.state.cors_origins = config.CORS_ORIGINS
    memory = LatestCheckpoints()
    key = config.OPENAI_API_KEY
    async with open_llm(
        model=config.OPENAI_MODEL,
        api_key=key.get_secret_value() if key else None,
        base_url=config.OPENAI_BASE_URL,
    ) as llm:
        app.state.agent_service = service = AgentService(
            llm,
            memory,
            MemorySessions(memory, limit=config.MAX_SESSIONS),
            timeout=config.REQUEST_TIMEOUT,
            turn_wait=config.TURN_WAIT,
        )
        async with ending_turns_at_shutdown(service.turns):
            yield


app = FastAPI(
    title="Agent service, exercise 5",
    version="1.0.0",
    description=DESCRIPTION,
    openapi_tags=TAGS,
    lifespan=lifespan,
    redirect_slashes=False,
)
add_edge(app)
app.include_router(router)
