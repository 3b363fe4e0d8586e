"""Wrong: the task that asks the model goes on when nobody reads what it writes.

Path of a request: routes > AgentService > turns > graph > llm.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, cast

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver

from shared.errors import AgentError, SessionNotFound
from shared.graph import Graph, build_graph, new_turn
from shared.models import (
    DEFAULT_ITERATIONS,
    QueryResponse,
    SessionInfo,
    SessionList,
    SessionMessage,
    StreamChunk,
)
from shared.ports import SessionStore
from shared.state import AgentState, TurnContext
from shared.tools import calculate, search_handbook
from shared.turns import Turn, Turns


class AgentService:
    """Runs the agent. Seconds: `timeout` bounds a turn, `turn_wait` its time in the queue."""

    def __init__(
        self,
        llm: ChatOpenAI,
        memory: BaseCheckpointSaver[Any],
        sessions: SessionStore,
        *,
        timeout: float = 60.0,
        turn_wait: float = 30.0,
    ) -> None:
        self.llm = llm
        self.memory = memory
        self.sessions = sessions
        self.graph = self._build_graph()
        self.background: set[asyncio.Task[None]] = set()
        self.turns = Turns(sessions, timeout=timeout, wait=turn_wait)

    def _build_graph(self) -> Graph:
        return build_graph(self.llm, [search_handbook, calculate], self.memory)

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        """The whole answer. Raises an AgentError, one of `shared/errors.py`."""
        started = time.perf_counter()
        context = TurnContext(max_iterations or DEFAULT_ITERATIONS)

        async def work(turn: Turn) -> AgentState:
            return await self._run_graph(turn, query, context)

        async with self.turns.open(session_id, work) as turn:
            state = await turn.result()
        return QueryResponse(
            response=state["response"],
            session_id=turn.session_id,
            execution_time=time.perf_counter() - started,
            tokens_used=context.tokens_used,
            metadata={**context.summary(), "stopped": state["stopped"], "tools": context.tools},
        )

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """The answer as the model writes it; the last chunk, and no other, is `done`.

        Raises an AgentError before the first chunk. After it the client has been told that all is
        well, so the last chunk carries the error. Close the iterator to stop the model.
        """
        pieces: asyncio.Queue[StreamChunk | AgentError | None] = asyncio.Queue()
        writing = asyncio.create_task(self._write(pieces, query, session_id, max_iterations))
        self.background.add(writing)
        writing.add_done_callback(self.background.discard)
        while (piece := await pieces.get()) is not None:
            if isinstance(piece, AgentError):
                raise piece
            yield piece

    async def _write(
        self,
        pieces: "asyncio.Queue[StreamChunk | AgentError | None]",
        query: str,
        session_id: str | None,
        max_iterations: int | None,
    ) -> None:
        started = time.perf_counter()
        context = TurnContext(max_iterations or DEFAULT_ITERATIONS)

        async def work(turn: Turn) -> AgentState:
            context.emit = turn.emit
            return await self._run_graph(turn, query, context)

        told = False
        async with self.turns.open(session_id, work) as turn:
            async with aclosing(turn.chunks()) as chunks:
                async for chunk in chunks:
                    told = True
                    pieces.put_nowait(chunk)
            try:
                ending: dict[str, Any] = {"stopped": (await turn.result())["stopped"]}
            except AgentError as exc:
                if not told:
                    pieces.put_nowait(exc)
                    return
                ending = {"stopped": None, "error": exc.as_response().model_dump()}
        numbers = {
            "session_id": turn.session_id,
            "execution_time": time.perf_counter() - started,
            "tokens_used": context.tokens_used,
        }
        last = {**numbers, **context.summary(), **ending}
        pieces.put_nowait(StreamChunk(chunk="", done=True, metadata=last))
        pieces.put_nowait(None)

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        """Raises SessionNotFound."""
        session = await self.sessions.get(session_id)
        state = await self.graph.aget_state(thread(session_id))
        messages = [
            SessionMessage(
                role="user" if isinstance(message, HumanMessage) else "assistant",
                content=message.text,
            )
            for message in state.values.get("messages", [])
        ]
        return SessionInfo(
            session_id=session.id,
            created_at=session.created_at,
            last_activity=session.last_activity,
            message_count=len(messages),
            messages=messages if with_messages else None,
        )

    async def clear_session(self, session_id: str) -> None:
        """Delete the session; a turn under way ends. Raises SessionNotFound."""
        await self.sessions.get(session_id)
        await self.turns.end(session_id, SessionNotFound("The session was deleted."))
        with suppress(SessionNotFound):  # its only turn, which has ended, took it along
            await self.sessions.delete(session_id)

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        """Newest activity first, a page at a time."""
        page = await self.sessions.page(limit=limit, cursor=cursor)
        return SessionList(sessions=page.ids, count=page.count, next_cursor=page.next_cursor)

    async def _run_graph(self, turn: Turn, query: str, context: TurnContext) -> AgentState:
        config = thread(turn.session_id)
        config["recursion_limit"] = 3 * context.max_iterations + 10  # never the first to stop it
        state = self.graph.ainvoke(new_turn(query), config, context=context, durability="exit")
        return cast(AgentState, await state)


def thread(session_id: str) -> RunnableConfig:
    """A session of ours is a thread of LangGraph's."""
    return {"configurable": {"thread_id": session_id}}
