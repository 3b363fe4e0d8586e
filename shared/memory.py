"""Conversations and sessions in this process's memory: one process, and gone with it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    copy_checkpoint,
)

from shared.errors import Overloaded, SessionBusy, SessionNotFound
from shared.ports import Session, SessionPage

EVICTION_RETRY_AFTER = 5


class LatestCheckpoints(BaseCheckpointSaver[int]):
    """The last checkpoint of every conversation, as live objects.

    LangGraph's InMemorySaver keeps a serialised copy of the whole conversation for every step,
    which nobody here reads: memory grows with the square of a conversation, and each turn costs
    more than the one before (docs/decisions/0003).
    """

    def __init__(self) -> None:
        super().__init__()
        self._latest: dict[str, CheckpointTuple] = {}

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        saved = self._latest.get(config["configurable"]["thread_id"])
        return saved and saved._replace(checkpoint=copy_checkpoint(saved.checkpoint))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id = config["configurable"]["thread_id"]
        saved_as: RunnableConfig = {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": "",
                "checkpoint_id": checkpoint["id"],
            }
        }
        self._latest[thread_id] = CheckpointTuple(saved_as, copy_checkpoint(checkpoint), metadata)
        return saved_as

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Nothing is kept: a turn that failed is asked again, never resumed."""

    async def adelete_thread(self, thread_id: str) -> None:
        self._latest.pop(thread_id, None)


@dataclass
class Record:
    session: Session
    activity: int = 0
    """Grows with every activity, so that two in the same microsecond have an order."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served
    turns: int = 0
    """Turns that hold the lock or wait for it."""


def utc_now() -> datetime:
    return datetime.now(UTC)


async def acquire(lock: asyncio.Lock, wait: float) -> None:
    try:
        async with asyncio.timeout(wait):
            await lock.acquire()
    except TimeoutError:
        raise SessionBusy(retry_after=1) from None


class MemorySessions:
    """A SessionStore of at most `limit` sessions; the longest idle makes room for a new one.

    Any well-formed id starts a session: whoever knows an id may use it.
    """

    def __init__(
        self,
        checkpointer: BaseCheckpointSaver[Any],
        *,
        limit: int = 1000,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._checkpointer = checkpointer
        self._limit = limit
        self._clock = clock
        self._activities = 0
        self._records: dict[str, Record] = {}  # longest idle first

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        record = self._records.get(session_id) or await self._make(session_id)
        record.turns += 1
        try:
            self._touch(record)
            await acquire(record.lock, wait)
            try:
                yield record.session
                self._touch(record)
            finally:
                record.lock.release()
        finally:
            record.turns -= 1

    async def get(self, session_id: str) -> Session:
        return self._find(session_id).session

    async def delete(self, session_id: str) -> None:
        self._find(session_id)
        del self._records[session_id]
        await self._checkpointer.adelete_thread(session_id)

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        before = self._activities + 1 if cursor is None else int(cursor)
        older = [r for r in reversed(self._records.values()) if r.activity < before]
        ids = [record.session.id for record in older[:limit]]
        following = str(older[limit - 1].activity) if len(older) > limit else None
        return SessionPage(ids, len(self._records), following)

    def _find(self, session_id: str) -> Record:
        try:
            return self._records[session_id]
        except KeyError:
            raise SessionNotFound from None

    async def _make(self, session_id: str) -> Record:
        """A new session, in the place of the longest idle one when all places are taken."""
        evicted = None
        if len(self._records) >= self._limit:
            evicted = next((id_ for id_, r in self._records.items() if not r.turns), None)
            if evicted is None:
                raise Overloaded(retry_after=EVICTION_RETRY_AFTER)
            del self._records[evicted]
        now = self._clock()
        record = self._records[session_id] = Record(Session(session_id, now, now))
        if evicted is not None:
            await self._checkpointer.adelete_thread(evicted)
        return record

    def _touch(self, record: Record) -> None:
        session_id = record.session.id
        if self._records.get(session_id) is not record:
            return  # deleted meanwhile: a turn under way does not bring it back
        self._activities += 1
        record.activity = self._activities
        record.session = replace(record.session, last_activity=self._clock())
        self._records[session_id] = self._records.pop(session_id)  # now the newest
