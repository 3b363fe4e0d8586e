"""What the routes need before they start: the service, and an opened stream."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from shared.agent_service import AgentService
from shared.models import QueryRequest
from shared.web.streaming import EventStream, first_fetched


async def get_agent_service(request: Request) -> AgentService:
    """The one service of this app, made by the lifespan in `main.py`."""
    service: AgentService = request.app.state.agent_service
    return service


AgentServiceDep = Annotated[AgentService, Depends(get_agent_service)]


async def open_stream(query: QueryRequest, service: AgentServiceDep) -> AsyncIterator[EventStream]:
    """The answer's stream, opened here and closed here, whether or not the client stays.

    An error before the first event is raised before the route runs, so it is a real status.
    """
    chunks = service.stream_query(query.query, query.session_id, query.max_iterations)
    async with first_fetched(chunks) as stream:
        yield stream


OpenedStream = Annotated[EventStream, Depends(open_stream)]
