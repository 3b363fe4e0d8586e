"""The medium service without its error handling, which is yours. Given; it is not handed in.

`uvicorn exercises.medium.ex04_exception_handlers.app:app` serves it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException

from medium.app.config import Settings
from medium.app.dependencies import AgentServiceDep
from shared.errors import UseStreamEndpoint
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.models import (
    PlainQueryRequest,
    QueryRequest,
    QueryResponse,
    SessionDeleted,
    SessionInfo,
)
from shared.web.lifecycle import PlainRefusal, ending_turns_at_shutdown
from shared.web.middleware import BodyLimit, ResponseHeaders, StopWhenClientLeaves
from shared.web.streaming import EventStream, first_fetched

from .error_handlers import add_error_handlers, tell_in_last_event
from .logs import log_in_blocks
from .rehearsal import FragileAgentService

router = APIRouter(prefix="/api/v1")


@router.post("/query")
async def query(request: PlainQueryRequest, service: AgentServiceDep) -> QueryResponse:
    if request.stream:
        raise UseStreamEndpoint
    return await service.process_query(request.query, request.session_id, request.max_iterations)


async def open_stream(query: QueryRequest, service: AgentServiceDep) -> AsyncIterator[EventStream]:
    chunks = service.stream_query(query.query, query.session_id, query.max_iterations)
    async with first_fetched(tell_in_last_event(chunks)) as stream:
        yield stream


@router.post("/query/stream", response_class=EventStream)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    return stream


@router.get("/session/{session_id}")
async def get_session(
    session_id: str, service: AgentServiceDep, include: Literal["messages"] | None = None
) -> SessionInfo:
    return await service.get_session_info(session_id, with_messages=include == "messages")


@router.delete("/session/{session_id}")
async def delete_session(session_id: str, service: AgentServiceDep) -> SessionDeleted:
    await service.clear_session(session_id)
    return SessionDeleted(message="Session deleted", session_id=session_id)


@router.get("/whoami")
async def who_am_i(authorization: Annotated[str, Header()] = "nothing") -> None:
    """Lets nobody in: a place to be refused at."""
    challenge = {"WWW-Authenticate": 'Bearer realm="agent"'}
    raise HTTPException(401, f"{authorization} opens nothing here", challenge)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    log_in_blocks()
    config = Settings()
    memory = LatestCheckpoints()
    key = config.OPENAI_API_KEY
    async with open_llm(
        model=config.OPENAI_MODEL,
        api_key=key.get_secret_value() if key else None,
        base_url=config.OPENAI_BASE_URL,
    ) as llm:
        app.state.agent_service = service = FragileAgentService(
            llm,
            memory,
            MemorySessions(memory, limit=config.MAX_SESSIONS),
            timeout=config.REQUEST_TIMEOUT,
            turn_wait=config.TURN_WAIT,
        )
        async with ending_turns_at_shutdown(service.turns):
            yield


app = FastAPI(title="Agent service, exercise 4", lifespan=lifespan, redirect_slashes=False)
app.include_router(router)
# The last one added is the first one that a request meets.
app.add_middleware(BodyLimit)
app.add_middleware(StopWhenClientLeaves)
add_error_handlers(app)
app.add_middleware(ResponseHeaders)
app.add_middleware(PlainRefusal)
