"""The medium service with your limit in front of its turns. Given; it is not handed in.

`uvicorn exercises.medium.ex02_rate_limit_per_session.app:app` serves it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import Field
from pydantic_settings import BaseSettings

from medium.app.dependencies import get_agent_service
from medium.app.main import create_app

from .rate_limit import LimitedAgentService, SessionLimiter


class LimitSettings(BaseSettings):
    """RATE_LIMIT_REQUESTS turns of one session in any RATE_LIMIT_WINDOW seconds."""

    RATE_LIMIT_REQUESTS: int = Field(default=10, ge=1)
    RATE_LIMIT_WINDOW: float = Field(default=60.0, gt=0)


app = create_app()
open_service = app.router.lifespan_context


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = LimitSettings()
    async with open_service(app):
        limiter = SessionLimiter(settings.RATE_LIMIT_REQUESTS, settings.RATE_LIMIT_WINDOW)
        app.state.limiter = limiter
        app.state.limited = LimitedAgentService(app.state.agent_service, limiter)
        yield


async def get_limited_service() -> LimitedAgentService:
    limited: LimitedAgentService = app.state.limited
    return limited


@app.get("/limits")
async def limits() -> dict[str, int]:
    """How many sessions the limiter remembers."""
    return {"sessions": len(app.state.limiter)}


app.router.lifespan_context = lifespan
app.dependency_overrides[get_agent_service] = get_limited_service
