"""Another design: no dependencies; the stream is opened in its route and framed by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from shared.errors import UseStreamEndpoint
from shared.models import (
    PlainQueryRequest,
    QueryRequest,
    QueryResponse,
    SessionDeleted,
    SessionInfo,
    SessionList,
    StreamChunk,
)
from shared.web.documentation import REQUEST_ERRORS, SESSION_ERRORS, STREAM_RESPONSES, TURN_ERRORS
from shared.web.streaming import EventStream

router = APIRouter(prefix="/api/v1")


@router.post("/query", responses=TURN_ERRORS, response_model=QueryResponse)
async def query(body: PlainQueryRequest, request: Request) -> Any:
    """Ask."""
    if body.stream:
        raise UseStreamEndpoint
    service = request.app.state.service
    return await service.process_query(body.query, body.session_id, body.max_iterations)


@router.post("/query/stream", response_class=EventStream, responses=STREAM_RESPONSES)
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


@router.get("/session/{session_id}", responses=SESSION_ERRORS, response_model=SessionInfo)
async def get_session(
    session_id: str, request: Request, include: Literal["messages"] | None = None
) -> Any:
    """A session."""
    service = request.app.state.service
    return await service.get_session_info(session_id, with_messages=include is not None)


@router.delete("/session/{session_id}", responses=SESSION_ERRORS, response_model=SessionDeleted)
async def delete_session(session_id: str, request: Request) -> Any:
    """Delete a session."""
    await request.app.state.service.clear_session(session_id)
    return {"message": "Gone", "session_id": session_id}


@router.get("/sessions", responses=REQUEST_ERRORS, response_model=SessionList)
async def list_sessions(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
) -> Any:
    """All sessions."""
    return await request.app.state.service.list_sessions(limit, cursor)
