"""A bare FastAPI + AsyncOpenAI pass-through: no graph, no history, one file.

Written as the libraries' own documentation shows it; what is left when the agent is taken away.
It is never tuned. Run it with ``uvicorn bench.baselines.passthrough:app``.
"""

import json
import os
import time
from collections.abc import AsyncIterator
from uuid import uuid4

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")

app = FastAPI()
client = AsyncOpenAI()


class QueryRequest(BaseModel):
    query: str
    session_id: str | None = None


class QueryResponse(BaseModel):
    response: str
    session_id: str
    execution_time: float


@app.post("/api/v1/query")
async def query(request: QueryRequest) -> QueryResponse:
    started = time.perf_counter()
    completion = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": request.query}]
    )
    return QueryResponse(
        response=completion.choices[0].message.content or "",
        session_id=request.session_id or str(uuid4()),
        execution_time=time.perf_counter() - started,
    )


@app.post("/api/v1/query/stream")
async def query_stream(request: QueryRequest) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": request.query}], stream=True
        )
        async for chunk in stream:
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                yield f"data: {json.dumps({'chunk': text, 'done': False})}\n\n"
        yield f"data: {json.dumps({'chunk': '', 'done': True})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "healthy"}
