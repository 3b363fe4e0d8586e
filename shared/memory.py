"""Conversations and sessions in this process's memory: one process, and gone with it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    copy_checkpoint,
)

from shared.errors import SessionBusy, SessionNotFound
from shared.ports import Session, SessionPage


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

    proven: bool = False
    """Whether a turn of it has ever gone well."""


def utc_now() -> datetime:
    return datetime.now(UTC)


async def acquire(lock: asyncio.Lock, wait: float) -> None:
    try:
        async with asyncio.timeout(wait):
            await lock.acquire()
    except TimeoutError:
        raise SessionBusy(retry_after=1) from None


class MemorySessions:
    """A SessionStore of `limit` sessions; the longest idle makes room for a new one.

    Any well-formed id starts a session: whoever knows an id may use it. A session is one of the
    `limit` once a turn of it has gone well, so that failing turns push nobody out.
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
        self._proven = 0
        self._records: dict[str, Record] = {}  # longest idle first

    def new_id(self) -> str:
        return str(uuid4())

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        record = self._records.get(session_id) or self._make(session_id)
        record.turns += 1
        self._touch(record)
        try:
            await acquire(record.lock, wait)
            try:
                yield record.session
                self._prove(record)
            finally:
                record.lock.release()
        finally:
            record.turns -= 1
            self._touch(record)
            await self._settle(record)

    async def get(self, session_id: str) -> Session:
        return self._find(session_id).session

    async def delete(self, session_id: str) -> None:
        await self._forget(self._find(session_id))

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        before = self._activities + 1 if cursor is None else int(cursor)
        older = (r for r in reversed(self._records.values()) if r.activity < before)
        page = list(islice(older, limit))
        more = next(older, None) is not None
        return SessionPage(
            ids=[record.session.id for record in page],
            count=len(self._records),
            next_cursor=str(page[-1].activity) if more else None,
        )

    def _find(self, session_id: str) -> Record:
        try:
            return self._records[session_id]
        except KeyError:
            raise SessionNotFound from None

    def _make(self, session_id: str) -> Record:
        now = self._clock()
        record = self._records[session_id] = Record(Session(session_id, now, now))
        return record

    def _prove(self, record: Record) -> None:
        if not record.proven and self._records.get(record.session.id) is record:
            record.proven = True
            self._proven += 1

    async def _settle(self, record: Record) -> None:
        """After a turn: forget a session that never had a good one, and make room if need be."""
        if not record.proven and not record.turns:
            await self._forget(record)
        if self._proven > self._limit:
            others = (r for r in self._records.values() if r is not record and not r.turns)
            if longest_idle := next(others, None):
                await self._forget(longest_idle)

    async def _forget(self, record: Record) -> None:
        session_id = record.session.id
        if self._records.get(session_id) is record:
            del self._records[session_id]
            self._proven -= record.proven
            await self._checkpointer.adelete_thread(session_id)

    def _touch(self, record: Record) -> None:
        session_id = record.session.id
        if self._records.get(session_id) is not record:
            return  # deleted meanwhile: a turn under way does not bring it back
        self._activities += 1
        record.activity = self._activities
        record.session = replace(record.session, last_activity=self._clock())
        self._records[session_id] = self._records.pop(session_id)  # now the newest
