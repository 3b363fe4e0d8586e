"""Your part: what the routes need before they start. Served as `medium/app/dependencies.py`."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from shared.agent_service import AgentService
from shared.models import QueryRequest
from shared.web.streaming import EventStream


async def get_agent_service(request: Request) -> AgentService:
    """The one service of this app, made by the lifespan in `main.py`."""
    raise NotImplementedError("TODO 4: take the service from where the lifespan in main.py put it")


AgentServiceDep = Annotated[AgentService, Depends(get_agent_service)]


async def open_stream(query: QueryRequest, service: AgentServiceDep) -> AsyncIterator[EventStream]:
    """The answer's stream, opened here and closed here, whether or not the client stays.

    An error before the first event is raised before the route runs, so it is a real status.
    """
    raise NotImplementedError(
        "TODO 12: ask the service for the chunks, and open them with first_fetched"
        " (shared/web/streaming.py)"
    )
    yield  # never reached, but makes this a generator


OpenedStream = Annotated[EventStream, Depends(open_stream)]
