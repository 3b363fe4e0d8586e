"""Another split: this opens the service for as long as the app runs; routes find it themselves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from medium.app.config import Settings
from shared.agent_service import AgentService
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.web.lifecycle import ending_turns_at_shutdown


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    config = Settings()
    app.state.cors_origins = config.CORS_ORIGINS
    memory = LatestCheckpoints()
    sessions = MemorySessions(memory, limit=config.MAX_SESSIONS)
    key = config.OPENAI_API_KEY and config.OPENAI_API_KEY.get_secret_value()
    url = config.OPENAI_BASE_URL
    async with open_llm(model=config.OPENAI_MODEL, api_key=key, base_url=url) as llm:
        app.state.service = service = AgentService(
            llm, memory, sessions, timeout=config.REQUEST_TIMEOUT, turn_wait=config.TURN_WAIT
        )
        async with ending_turns_at_shutdown(service.turns):
            yield
