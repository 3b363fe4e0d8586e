"""The medium service with your request model in front of it. Given; it is not handed in.

`uvicorn exercises.medium.ex01_validation_and_sanitisation.app:app` serves it.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse

from medium.app.dependencies import AgentServiceDep
from medium.app.main import create_app
from medium.app.routes.agent import get_session
from shared.models import QueryResponse
from shared.web.edge import add_edge
from shared.web.errors import as_json
from shared.web.streaming import EventStream, first_fetched

from .validation import Question, refusal

open_service = create_app().router.lifespan_context
app = FastAPI(lifespan=open_service, redirect_slashes=False)
add_edge(app)


@app.exception_handler(RequestValidationError)
async def on_validation_error(_: Request, exc: RequestValidationError) -> JSONResponse:
    return as_json(422, refusal(exc.errors()))


async def open_stream(question: Question, service: AgentServiceDep) -> AsyncIterator[EventStream]:
    chunks = service.stream_query(question.query, question.session_id, question.max_iterations)
    async with first_fetched(chunks) as stream:
        yield stream


@app.post("/api/v1/query")
async def query(question: Question, service: AgentServiceDep) -> QueryResponse:
    return await service.process_query(question.query, question.session_id, question.max_iterations)


@app.post("/api/v1/query/stream", response_class=EventStream)
async def query_stream(stream: Annotated[EventStream, Depends(open_stream)]) -> EventStream:
    return stream


app.get("/api/v1/session/{session_id}")(get_session)
