"""The agent's service with bugs on request, so that you can rehearse for real ones. Given.

A question "break ValueError ..." meets a bug inside its turn, after the model has answered, and
"snap ValueError ..." one outside of it: at once, or in a stream after its first chunk. So does
asking for a session whose id begins with "snap". The bug's text repeats the question or the id.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from shared.agent_service import AgentService
from shared.models import (
    DEFAULT_ITERATIONS,
    QueryResponse,
    SessionInfo,
    StreamChunk,
)
from shared.state import AgentState, TurnContext
from shared.turns import Turn

BUGS: dict[str, type[Exception]] = {
    "KeyError": KeyError,
    "RuntimeError": RuntimeError,
    "ValueError": ValueError,
}


def rehearse(word: str, text: str) -> None:
    """Raise the bug that the text asks for, if it begins with the word."""
    if text.startswith(word):
        kind = next((bug for name, bug in BUGS.items() if name in text), RuntimeError)
        raise kind(f"cannot file {text!r} at postgres://agent@db.internal:5432/turns")


class FragileAgentService(AgentService):
    """Breaks on request, and lets every failure of a stream out: AgentService itself would turn
    those that it can name into the last event."""

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        rehearse("snap", query)
        return await super().process_query(query, session_id, max_iterations)

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        context = TurnContext(max_iterations or DEFAULT_ITERATIONS)

        async def work(turn: Turn) -> AgentState:
            context.emit = turn.emit
            return await self._run_graph(turn, query, context)

        async with self.turns.open(session_id, work) as turn:
            async with aclosing(turn.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk
                    rehearse("snap", query)
            await turn.result()
        yield StreamChunk(chunk="", done=True, metadata={"session_id": turn.session_id})

    async def get_session_info(
        self, session_id: str, *, with_messages: bool = False
    ) -> SessionInfo:
        rehearse("snap", session_id)
        return await super().get_session_info(session_id, with_messages=with_messages)

    async def _run_graph(self, turn: Turn, query: str, context: TurnContext) -> AgentState:
        state = await super()._run_graph(turn, query, context)
        rehearse("break", query)
        return state
