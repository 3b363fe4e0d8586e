"""Another design: a task and a queue for each turn, kept here; nothing of shared/turns.py."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver

from shared.errors import AgentError, ModelTimeout, SessionNotFound
from shared.graph import build_graph, new_turn
from shared.models import QueryResponse, SessionInfo, SessionList, SessionMessage, StreamChunk
from shared.ports import SessionStore
from shared.state import TurnContext
from shared.tools import calculate, search_handbook

Pieces = asyncio.Queue[StreamChunk]


class AgentService:
    def __init__(
        self,
        llm: ChatOpenAI,
        memory: BaseCheckpointSaver[Any],
        sessions: SessionStore,
        *,
        timeout: float = 60.0,
        turn_wait: float = 30.0,
    ) -> None:
        self.sessions = sessions
        self.timeout = timeout
        self.turn_wait = turn_wait
        self.graph = build_graph(llm, [search_handbook, calculate], memory)
        self.under_way: dict[str, set[asyncio.Task[Any]]] = defaultdict(set)
        self.deleted: set[asyncio.Task[Any]] = set()

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        started = time.perf_counter()
        context = TurnContext(max_iterations or 10)
        session_id = session_id or str(uuid4())
        async with self.asking(query, session_id, context) as task:
            state = await self.outcome(task)
        return QueryResponse(
            response=state["response"],
            session_id=session_id,
            execution_time=time.perf_counter() - started,
            tokens_used=context.tokens_used,
            metadata={**context.summary(), "stopped": state["stopped"], "tools": context.tools},
        )

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        started = time.perf_counter()
        context = TurnContext(max_iterations or 10)
        session_id = session_id or str(uuid4())
        pieces: Pieces = asyncio.Queue(maxsize=32)

        async def emit(text: str, metadata: dict[str, Any]) -> None:
            await pieces.put(StreamChunk(chunk=text, metadata=metadata))

        context.emit = emit
        told = 0
        async with self.asking(query, session_id, context) as task:
            async for chunk in until_over(pieces, task):
                told += 1
                yield chunk
            try:
                ending: dict[str, Any] = {"stopped": (await self.outcome(task))["stopped"]}
            except AgentError as exc:
                if told == 0:
                    raise
                ending = {"stopped": None, "error": exc.as_response().model_dump()}
        metadata: dict[str, Any] = {
            "session_id": session_id,
            "execution_time": time.perf_counter() - started,
            "tokens_used": context.tokens_used,
        }
        metadata |= context.summary() | ending
        yield StreamChunk(chunk="", done=True, metadata=metadata)

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        session = await self.sessions.get(session_id)
        state = await self.graph.aget_state(thread(session_id))
        said = state.values.get("messages", [])
        told = [
            SessionMessage(
                role="user" if isinstance(each, HumanMessage) else "assistant", content=each.text
            )
            for each in said
        ]
        return SessionInfo(
            session_id=session_id,
            created_at=session.created_at,
            last_activity=session.last_activity,
            message_count=len(said),
            messages=told if with_messages else None,
        )

    async def clear_session(self, session_id: str) -> None:
        await self.sessions.get(session_id)
        for task in tuple(self.under_way[session_id]):
            self.deleted.add(task)
            task.cancel()
            await asyncio.wait([task])
        try:
            await self.sessions.delete(session_id)
        except SessionNotFound:
            return

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        page = await self.sessions.page(limit=limit, cursor=cursor)
        return SessionList(sessions=page.ids, count=page.count, next_cursor=page.next_cursor)

    @asynccontextmanager
    async def asking(
        self, query: str, session_id: str, context: TurnContext
    ) -> AsyncIterator[asyncio.Task[Any]]:
        """The graph at work in a task, which does not outlive the block."""
        task = asyncio.create_task(self.ask(query, session_id, context))
        self.under_way[session_id].add(task)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.deleted.discard(task)
            self.under_way[session_id].discard(task)
            if not self.under_way[session_id]:
                del self.under_way[session_id]

    async def ask(self, query: str, session_id: str, context: TurnContext) -> Any:
        config = thread(session_id)
        config["recursion_limit"] = 500
        async with self.sessions.turn(session_id, wait=self.turn_wait):
            try:
                async with asyncio.timeout(self.timeout):
                    return await self.graph.ainvoke(
                        new_turn(query), config, context=context, durability="exit"
                    )
            except TimeoutError:
                raise ModelTimeout from None

    async def outcome(self, task: asyncio.Task[Any]) -> Any:
        await asyncio.wait([task])
        if task in self.deleted:
            raise SessionNotFound
        return task.result()


async def until_over(pieces: Pieces, task: asyncio.Task[Any]) -> AsyncIterator[StreamChunk]:
    """The pieces as they come; the end of the task is the end, once they have been read."""
    while not (task.done() and pieces.empty()):
        waiting = asyncio.create_task(pieces.get())
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            yield waiting.result()
        else:
            waiting.cancel()


def thread(session_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": session_id}}
