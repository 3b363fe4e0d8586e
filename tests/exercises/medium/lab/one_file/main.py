"""Another split: all in one file, routes without dependencies, the stream framed by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request
from starlette.responses import StreamingResponse

from medium.app.config import Settings
from shared.agent_service import AgentService
from shared.errors import UseStreamEndpoint
from shared.llm import open_llm
from shared.memory import LatestCheckpoints, MemorySessions
from shared.models import (
    Health,
    PlainQueryRequest,
    QueryRequest,
    QueryResponse,
    ServiceInfo,
    SessionDeleted,
    SessionInfo,
    SessionList,
    StreamChunk,
)
from shared.playground import router as playground
from shared.web.documentation import refusals, session_errors, stream_responses, turn_errors
from shared.web.edge import add_edge
from shared.web.lifecycle import ending_turns_at_shutdown
from shared.web.streaming import EventStream

router = APIRouter(prefix="/api/v1")


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    config = Settings()
    app.state.cors_origins = config.CORS_ORIGINS
    memory = LatestCheckpoints()
    sessions = MemorySessions(memory, limit=config.MAX_SESSIONS)
    key = config.OPENAI_API_KEY.get_secret_value() if config.OPENAI_API_KEY else None
    url = config.OPENAI_BASE_URL
    async with open_llm(model=config.OPENAI_MODEL, api_key=key, base_url=url) as llm:
        app.state.service = service = AgentService(
            llm, memory, sessions, timeout=config.REQUEST_TIMEOUT, turn_wait=config.TURN_WAIT
        )
        async with ending_turns_at_shutdown(service.turns):
            yield


def create_app() -> FastAPI:
    app = FastAPI(title="Agent", version="2", lifespan=opened, redirect_slashes=False)
    add_edge(app)
    app.add_api_route("/", root, response_model=ServiceInfo)
    app.add_api_route("/health", health, response_model=Health)
    app.include_router(router)
    app.include_router(playground)
    return app


def root() -> dict[str, str]:
    """What this is."""
    return {"title": "Agent", "version": "2"}


def health() -> dict[str, str]:
    """Whether it is well."""
    return {"status": "healthy"}


@router.post("/query", responses=turn_errors(), response_model=QueryResponse)
async def query(body: PlainQueryRequest, request: Request) -> Any:
    """Ask."""
    if body.stream:
        raise UseStreamEndpoint
    service = request.app.state.service
    return await service.process_query(body.query, body.session_id, body.max_iterations)


@router.post("/query/stream", response_class=EventStream, responses=stream_responses())
async def query_stream(body: QueryRequest, request: Request) -> StreamingResponse:
    """Ask, and listen."""
    service = request.app.state.service
    chunks = service.stream_query(body.query, body.session_id, body.max_iterations)
    first = await anext(chunks)

    async def events() -> AsyncIterator[str]:
        async with aclosing(chunks):
            yield event(first)
            async for chunk in chunks:
                yield event(chunk)

    return StreamingResponse(events(), media_type="text/event-stream")


def event(chunk: StreamChunk) -> str:
    return f"event: message\r\ndata: {json.dumps(chunk.model_dump())}\r\n\r\n"


@router.get("/session/{session_id}", responses=session_errors(), response_model=SessionInfo)
async def get_session(
    session_id: str, request: Request, include: Literal["messages"] | None = None
) -> Any:
    """A session."""
    service = request.app.state.service
    return await service.get_session_info(session_id, with_messages=include is not None)


@router.delete("/session/{session_id}", responses=session_errors(), response_model=SessionDeleted)
async def delete_session(session_id: str, request: Request) -> Any:
    """Delete a session."""
    await request.app.state.service.clear_session(session_id)
    return {"message": "Gone", "session_id": session_id}


@router.get("/sessions", responses=refusals(), response_model=SessionList)
async def list_sessions(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
) -> Any:
    """All sessions."""
    return await request.app.state.service.list_sessions(limit, cursor)


app = create_app()
