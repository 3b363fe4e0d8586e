"""The medium service with your deadlines around its turns. Given; it is not handed in.

`uvicorn exercises.medium.ex03_timeouts.app:app` serves it.
"""

from typing import Annotated

from fastapi import Header, Request
from pydantic import Field
from pydantic_settings import BaseSettings

from medium.app.dependencies import get_agent_service
from medium.app.main import create_app

from .timeouts import Deadlines, TimedAgentService


class TimeoutSettings(BaseSettings):
    """Seconds."""

    QUERY_TIMEOUT: float = Field(default=30, gt=0)
    STREAM_TIMEOUT: float = Field(default=120, gt=0)
    STREAM_IDLE: float = Field(default=15, gt=0)


async def get_timed_service(
    request: Request, request_timeout: Annotated[str | None, Header()] = None
) -> TimedAgentService:
    """Made for this one request, whose Request-Timeout header may ask for less."""
    settings = TimeoutSettings()
    deadlines = Deadlines(
        query=settings.QUERY_TIMEOUT, stream=settings.STREAM_TIMEOUT, idle=settings.STREAM_IDLE
    )
    return TimedAgentService(request.app.state.agent_service, deadlines.for_client(request_timeout))


app = create_app()
app.dependency_overrides[get_agent_service] = get_timed_service
