"""AgentService as production wants it: measured, bounded, and a first question answered once.

Path of a request: routes > ProductionAgentService > turns > flights and cache > graph > llm.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from copy import copy
from pathlib import Path
from typing import Any, Self, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata, empty_checkpoint
from langgraph.graph.message import add_messages

import shared
from shared.agent_service import AgentService, thread
from shared.errors import ModelTimeout, Overloaded
from shared.graph import build_graph, finish, new_turn
from shared.models import QueryResponse, StreamChunk
from shared.ports import SessionStore
from shared.state import AgentState, TurnContext
from shared.tools import calculate, search_handbook
from shared.turns import Turn

from .cache import Made, answer_key, is_answer, may_be_repeated
from .flight import Say
from .flights import Flights
from .logs import note
from .monitoring import cache_lookups, measured_stream, measured_turn, tokens


class ProductionAgentService(AgentService):
    """AgentService with a cache, numbers, and at most `at_once` turns with the model.

    Made once for each worker; `of` gives a user's view of it. `callbacks` are told, in the context
    of the request that began it, of every step of the graph, every model call and every tool.
    """

    def __init__(
        self,
        llm: ChatOpenAI,
        memory: BaseCheckpointSaver[Any],
        sessions: SessionStore,
        flights: Flights,
        *,
        timeout: float = 60.0,
        turn_wait: float = 30.0,
        at_once: int = 100,
        callbacks: Sequence[BaseCallbackHandler] = (),
    ) -> None:
        super().__init__(llm, memory, sessions, timeout=timeout, turn_wait=turn_wait)
        self._flights = flights
        self._timeout = timeout
        self._places = asyncio.Semaphore(at_once)
        without_memory = build_graph(llm, [search_handbook, calculate])
        self.graph = self.graph.with_config(callbacks=list(callbacks))
        self._graph_without_memory = without_memory.with_config(callbacks=list(callbacks))
        self._answers_depend_on = (
            version_of_the_agent(),
            llm.openai_api_base,
            llm.model_name,
            llm.temperature,
            llm.max_tokens,
        )
        self._user = ""

    def of(self, user: str, sessions: SessionStore) -> Self:
        """The service for one user. Costs nothing: make one for each request."""
        view = copy(self)
        view._user = user
        view.sessions = sessions
        view.turns = self.turns.of(sessions)
        return view

    async def process_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> QueryResponse:
        with measured_turn() as outcome:
            answer = await super().process_query(query, session_id, max_iterations)
            outcome.status = "success"
            return answer

    async def stream_query(
        self, query: str, session_id: str | None = None, max_iterations: int | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        chunks = super().stream_query(query, session_id, max_iterations)
        async with aclosing(measured_stream(chunks)) as measured:
            async for chunk in measured:
                yield chunk

    async def _run_graph(self, turn: Turn, query: str, context: TurnContext) -> AgentState:
        note(session=turn.session_id)
        if turn.first and self._flights.enabled:
            return await self._answer_once(turn, query, context)
        async with self._at_the_model(context):
            return await super()._run_graph(turn, query, context)

    async def _answer_once(self, turn: Turn, query: str, context: TurnContext) -> AgentState:
        """A question without a history: its answer may be there, or under way, already.

        The work belongs to no session. Each who waits for it takes the answer into their own.
        """
        iterations = context.max_iterations
        aloud = context.emit is not None

        async def make(say: Say) -> dict[str, Any]:
            return await self._make(query, iterations, say if aloud else None)

        key = answer_key(self._user, self._answers_depend_on, query, iterations)
        asked = self._flights.answer(key, make, keep=may_be_repeated, believe=is_answer)
        async with asked as answer:
            heard = await passed_on(answer.pieces(), context) if aloud else False
            made = await answer.result()
        if not heard:  # it came whole, from the store or from another worker
            await context.say("supervisor", made["response"])
        cache_lookups.labels("hit" if answer.cached else "miss").inc()
        context.cached, context.tools = answer.cached, made["tools"]
        if not answer.cached:
            context.iterations, context.tokens_used = made["iterations"], made["tokens_used"]
        return await self._remember(turn, query, made)

    async def _remember(self, turn: Turn, query: str, made: dict[str, Any]) -> AgentState:
        """Store the turn as its session's first, in the state that the graph would have left.

        `graph.aupdate_state` would do the same; it was a sixth of what such an answer cost in all.
        """
        state = {**new_turn(query), **finish(new_turn(query), made["response"], made["stopped"])}
        state["messages"] = add_messages([], state["messages"])  # gives them ids
        state["work"] = []
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = state
        checkpoint["channel_versions"] = dict.fromkeys(
            state, self.memory.get_next_version(None, None)
        )
        config = thread(turn.session_id)
        config["configurable"]["checkpoint_ns"] = ""
        metadata = CheckpointMetadata(source="update", step=0, parents={})
        await self.memory.aput(config, checkpoint, metadata, checkpoint["channel_versions"])
        return cast(AgentState, state)

    async def _make(self, query: str, iterations: int, say: Say | None) -> dict[str, Any]:
        """Ask the model. Bounds its own time: nobody's turn is its own."""
        context = TurnContext(iterations)
        if say is not None:
            context.emit = told_to(say)
        async with self._at_the_model(context):
            try:
                async with asyncio.timeout(self._timeout):
                    state = await self._graph_without_memory.ainvoke(
                        new_turn(query), context=context
                    )
            except TimeoutError:
                raise ModelTimeout from None
        return Made(
            response=state["response"],
            stopped=state["stopped"],
            flawed=context.flawed,
            tools=context.tools,
            iterations=context.iterations,
            tokens_used=context.tokens_used,
        ).model_dump()

    @asynccontextmanager
    async def _at_the_model(self, context: TurnContext) -> AsyncIterator[None]:
        """Hold one of the places for turns that call the model. Raises Overloaded at once."""
        if self._places.locked():
            raise Overloaded("Too many questions are being answered.", retry_after=1)
        async with self._places:
            try:
                yield
            finally:
                tokens.labels("input").inc(context.input_tokens)
                tokens.labels("output").inc(context.output_tokens)
                note(model_seconds=round(context.model_seconds, 6), tokens=context.tokens_used)


def told_to(say: Say) -> Any:
    """An `emit` that never waits: the one who waits for readers is each reader's own turn."""
    last: dict[str, Any] = {}

    async def emit(text: str, metadata: dict[str, Any]) -> None:
        nonlocal last
        if metadata != last:  # a long answer is kept piece by piece, but with one dict
            last = metadata
        say((text, last))

    return emit


async def passed_on(pieces: AsyncGenerator[Any, None], context: TurnContext) -> bool:
    """Tell the turn's reader all pieces; whether there was any text among them."""
    heard = False
    async with aclosing(pieces):
        async for text, metadata in pieces:
            heard |= bool(text)
            if context.emit is not None:
                await context.emit(text, metadata)
    return heard


def version_of_the_agent() -> str:
    """A digest of what shapes an answer beside the question: prompts, tools, handbook, limits."""
    root = Path(shared.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *root.glob("handbook/*.md")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
