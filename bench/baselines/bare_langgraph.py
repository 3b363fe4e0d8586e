"""A bare FastAPI + LangGraph application: one node, default options, one file.

Written as the libraries' own documentation shows it, so that `make bench` has something to
divide by. It is never tuned. Run it with ``uvicorn bench.baselines.bare_langgraph:app``.
"""

import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

app = FastAPI()
llm = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"))


async def call_model(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await llm.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("call_model", call_model)
builder.add_edge(START, "call_model")
builder.add_edge("call_model", END)
graph = builder.compile(checkpointer=MemorySaver())


class QueryRequest(BaseModel):
    query: str
    session_id: str | None = None


class QueryResponse(BaseModel):
    response: str
    session_id: str
    execution_time: float


def graph_input(request: QueryRequest) -> Any:
    return {"messages": [("user", request.query)]}


def config_for(session_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": session_id}}


@app.post("/api/v1/query")
async def query(request: QueryRequest) -> QueryResponse:
    started = time.perf_counter()
    session_id = request.session_id or str(uuid4())
    result = await graph.ainvoke(graph_input(request), config_for(session_id))
    return QueryResponse(
        response=result["messages"][-1].content,
        session_id=session_id,
        execution_time=time.perf_counter() - started,
    )


@app.post("/api/v1/query/stream")
async def query_stream(request: QueryRequest) -> StreamingResponse:
    session_id = request.session_id or str(uuid4())

    async def events() -> AsyncIterator[str]:
        async for message, _ in graph.astream(
            graph_input(request), config_for(session_id), stream_mode="messages"
        ):
            if isinstance(message, AIMessageChunk) and message.content:
                yield f"data: {json.dumps({'chunk': message.content, 'done': False})}\n\n"
        yield f"data: {json.dumps({'chunk': '', 'done': True})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "healthy"}
