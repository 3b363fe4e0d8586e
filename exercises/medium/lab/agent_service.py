"""Your part: a question in, an answer out, one graph run a turn. Served as shared/agent_service.py.

Path of a request: routes > AgentService > turns > graph > llm.
"""

from collections.abc import AsyncGenerator
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver

from shared.models import QueryResponse, SessionInfo, SessionList, StreamChunk
from shared.ports import SessionStore


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
        raise NotImplementedError(
            "TODO 5: keep the sessions; build the graph (shared/graph.py) with the tools"
            " (shared/tools.py) and the memory; make the Turns (shared/turns.py)"
        )

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        """The whole answer. Raises an AgentError, one of `shared/errors.py`."""
        raise NotImplementedError(
            "TODO 7: open a turn whose work runs the graph, wait for its result, and tell it"
        )

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """The answer as the model writes it; the last chunk, and no other, is `done`.

        Raises an AgentError before the first chunk. After it the client has been told that all is
        well, so the last chunk carries the error. Close the iterator to stop the model.
        """
        raise NotImplementedError(
            "TODO 11: open a turn whose work runs the graph and emits, pass its chunks on, and end"
            " with one chunk that is done"
        )
        yield StreamChunk(chunk="")

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        """Raises SessionNotFound."""
        raise NotImplementedError(
            "TODO 9: the store knows the session, the graph's state knows its messages"
        )

    async def clear_session(self, session_id: str) -> None:
        """Delete the session; a turn under way ends. Raises SessionNotFound."""
        raise NotImplementedError("TODO 10: end the session's turns, then delete it")

    async def list_sessions(self, limit: int = 100, cursor: str | None = None) -> SessionList:
        """Newest activity first, a page at a time."""
        raise NotImplementedError("TODO 6: the store has the page; SessionList is how it is told")


def thread(session_id: str) -> RunnableConfig:
    """A session of ours is a thread of LangGraph's."""
    return {"configurable": {"thread_id": session_id}}
