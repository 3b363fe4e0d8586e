"""One turn of a session: in a task of its own, in its order, before its deadline, or not at all.

Why a task of its own: closing a client, or an iterator over a graph, does not stop LangGraph's
nodes. Cancelling the task that runs them does, and with them the call to the model.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, Self

from shared.errors import AgentError, ModelTimeout, Overloaded
from shared.models import StreamChunk
from shared.ports import SessionStore

logger = logging.getLogger(__name__)

READ_AHEAD = 64
"""Chunks that may wait for a slow reader; after that the model waits, too."""

NOT_READ = "The model had more to say, but the answer was not read in time."


class Turn:
    """One question on its way to an answer. Made by `Turns.open`."""

    def __init__(self, session_id: str, *, first: bool) -> None:
        self.session_id = session_id
        self.first = first
        """Whether it makes its session: there is no history."""
        self.blocked = 0
        """How many pieces wait for the reader to make room."""

        self._chunks: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(READ_AHEAD)
        self._ended_by: AgentError | None = None

    async def emit(self, text: str, metadata: dict[str, Any]) -> None:
        """Pass a piece on; waits while the reader is READ_AHEAD pieces behind."""
        self.blocked += 1
        await self._room.acquire()
        self.blocked -= 1
        self._chunks.put_nowait(StreamChunk(chunk=text, metadata=metadata))

    async def chunks(self) -> AsyncGenerator[StreamChunk, None]:
        """What is emitted, as it is emitted, until the work is over, well or not."""
        while (chunk := await self._chunks.get()) is not None:
            self._room.release()
            yield chunk

    async def result(self) -> Any:
        """What the work returned. Raises an AgentError: its own, or the reason that ended it."""
        await self.over()
        if self._ended_by is not None and self._task.cancelled():
            raise self._ended_by
        try:
            return self._task.result()
        except AgentError:
            raise
        except Exception as exc:  # a bug, ours or a library's: the log gets it, the client not
            logger.exception("A turn failed in a way that nobody foresaw")
            raise AgentError from exc

    def end(self, reason: AgentError) -> None:
        """Stop the work; `result` raises the reason."""
        self._ended_by = reason
        self._stop()

    async def over(self) -> None:
        """Wait until the work has stopped, however it stopped."""
        await asyncio.wait([self._task])

    @asynccontextmanager
    async def running(
        self, work: Coroutine[Any, Any, Any], when_over: Callable[["Turn"], object]
    ) -> AsyncIterator[None]:
        """Run the work while the block lasts; leaving the block stops it."""
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._finish)
        self._task.add_done_callback(lambda _: when_over(self))
        try:
            yield
        finally:
            self._stop()
            await self.over()

    def _stop(self) -> None:
        if not self._task.cancelling():  # a second time would cut its clean-up short
            self._task.cancel()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._chunks.put_nowait(None)
        if not task.cancelled():
            task.exception()  # seen: nobody may be left to ask for the result


class Turns:
    """The turns under way in this process."""

    def __init__(self, sessions: SessionStore, *, timeout: float, wait: float) -> None:
        self._sessions = sessions
        self._timeout = timeout
        self._wait = wait
        self._at_work: set[Turn] = set()
        self._draining = asyncio.Event()

    def of(self, sessions: SessionStore) -> Self:
        """The same turns under way, seen by someone who has other sessions."""
        view = copy(self)
        view._sessions = sessions
        return view

    @asynccontextmanager
    async def open(
        self, session_id: str | None, work: Callable[[Turn], Awaitable[Any]]
    ) -> AsyncIterator[Turn]:
        """Start `work` as the session's next turn; leaving the block stops it.

        The turn fails with SessionBusy after `wait` seconds in the queue, and with ModelTimeout
        after `timeout` seconds of work. Raises Overloaded once the service is shutting down.
        """
        if self._draining.is_set():
            raise shutting_down()
        turn = Turn(session_id or self._sessions.new_id(), first=session_id is None)
        self._at_work.add(turn)
        # It is at work until its task is over, which can be after its reader has gone.
        async with turn.running(self._in_order(turn, work), self._at_work.discard):
            yield turn

    async def end(self, session_id: str, reason: AgentError) -> None:
        """End every turn of the session, running or waiting; none is at work when this returns."""
        while mine := [turn for turn in self._at_work if turn.session_id == session_id]:
            await end_all(mine, reason)

    async def drain(self, grace: float) -> None:
        """Take no more turns, give those under way `grace` seconds, then end them."""
        self._draining.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                for turn in list(self._at_work):
                    await turn.over()
        await end_all(list(self._at_work), shutting_down())

    async def _in_order(self, turn: Turn, work: Callable[[Turn], Awaitable[Any]]) -> Any:
        async with self._sessions.turn(turn.session_id, wait=self._wait):
            try:
                async with asyncio.timeout(self._timeout):
                    return await work(turn)
            except TimeoutError:
                raise ModelTimeout(NOT_READ if turn.blocked else None) from None


async def end_all(turns: list[Turn], reason: AgentError) -> None:
    for turn in turns:
        turn.end(reason)
    for turn in turns:
        await turn.over()


def shutting_down() -> Overloaded:
    return Overloaded("The service is shutting down.", retry_after=5)
