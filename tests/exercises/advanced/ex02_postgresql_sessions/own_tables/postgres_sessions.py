"""A conversation is one row, its session's: it goes when the session goes, and needs no library."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from weakref import WeakValueDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from advanced.app.database import SessionStoreUnavailable
from advanced.app.sessions import NewId, new_id
from exercises.advanced.ex02_postgresql_sessions.database import Connection, Database, one
from exercises.advanced.ex02_postgresql_sessions.turn_order import Ticket, TurnOrder
from shared.errors import SessionNotFound
from shared.ports import Session, SessionPage

holding: ContextVar[Ticket] = ContextVar("holding")


class PostgresSessions:
    def __init__(
        self,
        url: str,
        *,
        ttl: timedelta,
        limit: int,
        lease: float,
        sweep_every: float,
        pool_size: int,
        patience: float,
    ) -> None:
        self.database = Database(url, pool_size=pool_size, patience=patience)
        self.order = TurnOrder(self.database, lease=lease)
        self.checkpoints = OneRow(self.database, self.order)
        self.ttl = ttl
        self.limit = limit
        self._sweep_every = sweep_every
        self.lines = WeakValueDictionary[str, asyncio.Lock]()

    async def __aenter__(self) -> Self:
        await self.database.open()
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sweeping.cancel()
        await self.database.close()

    def of(self, owner: str) -> "OwnedSessions":
        return OwnedSessions(self, owner)

    async def answers(self) -> bool:
        await self.active()
        return True

    async def active(self) -> int:
        async def count(connection: Connection) -> int:
            query = "SELECT count(*) FROM sessions WHERE active > now() - %s"
            return int((await one(connection, query, self.ttl))[0])

        return await self.database.transact(count)

    async def _sweep(self) -> None:
        async def sweep(connection: Connection) -> None:
            await connection.execute("DELETE FROM turns WHERE until < clock_timestamp()")
            await connection.execute(
                "DELETE FROM sessions s WHERE (active <= now() - %s OR NOT proven)"
                " AND NOT EXISTS (SELECT FROM turns WHERE session = s.id)",
                [self.ttl],
            )

        while True:
            with suppress(SessionStoreUnavailable):
                await self.database.transact(sweep)
            await asyncio.sleep(self._sweep_every)


class OwnedSessions:
    def __init__(self, sessions: PostgresSessions, owner: str) -> None:
        self._all = sessions
        self._transact = sessions.database.transact
        self._order = sessions.order
        self._owner = owner

    def new_id(self) -> str:
        return new_id()

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        deadline = asyncio.get_running_loop().time() + wait
        ticket = Ticket(session_id)
        line = self._all.lines.setdefault(session_id, asyncio.Lock())
        went_well = False

        async def enter(connection: Connection) -> Session:
            if isinstance(session_id, NewId):
                await connection.execute(
                    "INSERT INTO sessions (id, owner) VALUES (%s, %s)", [*self._mine(session_id)]
                )
            session = await self._touch(connection, session_id, proven=False)
            if session is None:
                raise SessionNotFound
            await self._order.draw(connection, ticket)
            return session

        async def leave(connection: Connection) -> None:
            if ticket.number:
                await self._touch(connection, session_id, proven=went_well, alive=False)
                await self._order.hand_in(connection, ticket)
                await self._tidy(connection, session_id)

        try:
            session = await self._transact(enter, line)
            async with self._order.kept(ticket):
                await self._order.come_first(ticket, deadline)
                holding.set(ticket)
                yield session
            went_well = True
        except SessionNotFound:
            raise
        except BaseException:
            with suppress(SessionStoreUnavailable):
                await self._transact(leave, line)
            raise
        await self._transact(leave, line)

    async def get(self, session_id: str) -> Session:
        async def find(connection: Connection) -> Session:
            row = await one(
                connection,
                "SELECT created, active FROM sessions"
                " WHERE id = %s AND owner = %s AND active > now() - %s",
                *self._mine(session_id),
                self._all.ttl,
            )
            if row is None:
                raise SessionNotFound
            return as_session(session_id, row)

        return await self._transact(find)

    async def delete(self, session_id: str) -> None:
        async def delete(connection: Connection) -> int:
            deleted = await connection.execute(
                "DELETE FROM sessions WHERE id = %s AND owner = %s AND active > now() - %s",
                [*self._mine(session_id), self._all.ttl],
            )
            return deleted.rowcount

        if not await self._transact(delete):
            raise SessionNotFound

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        async def page(connection: Connection) -> SessionPage:
            found = await connection.execute(
                "SELECT id, activity FROM sessions WHERE owner = %s AND active > now() - %s"
                " ORDER BY activity DESC",
                [self._owner, self._all.ttl],
            )
            everything = await found.fetchall()
            rows = [row for row in everything if cursor is None or row[1] < int(cursor)]
            more = len(rows) > limit
            return SessionPage(
                ids=[row[0] for row in rows[:limit]],
                count=len(everything),
                next_cursor=str(rows[limit - 1][1]) if more else None,
            )

        return await self._transact(page)

    def _mine(self, session_id: str) -> tuple[str, str]:
        if not session_id.isprintable():
            raise SessionNotFound
        return str(session_id), self._owner

    async def _touch(
        self, connection: Connection, session_id: str, *, proven: bool, alive: bool = True
    ) -> Session | None:
        row = await one(
            connection,
            "UPDATE sessions SET active = now(), proven = proven OR %s,"
            " activity = nextval(pg_get_serial_sequence('sessions', 'activity'))"
            " WHERE id = %s AND owner = %s AND (active > now() - %s OR NOT %s)"
            " RETURNING created, active",
            proven,
            *self._mine(session_id),
            self._all.ttl,
            alive,
        )
        return None if row is None else as_session(session_id, row)

    async def _tidy(self, connection: Connection, session_id: str) -> None:
        await connection.execute(
            "DELETE FROM sessions s WHERE id = %s AND NOT proven"
            " AND NOT EXISTS (SELECT FROM turns WHERE session = s.id)",
            [session_id],
        )
        proven = await one(
            connection, "SELECT count(*) FROM sessions WHERE owner = %s AND proven", self._owner
        )
        await connection.execute(
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions s WHERE owner = %s"
            " AND id <> %s AND NOT EXISTS (SELECT FROM turns WHERE session = s.id)"
            " ORDER BY activity LIMIT %s FOR UPDATE SKIP LOCKED)",
            [self._owner, session_id, max(0, proven[0] - self._all.limit)],
        )


class OneRow(BaseCheckpointSaver[int]):
    def __init__(self, database: Database, order: TurnOrder) -> None:
        super().__init__()
        self._database = database
        self._order = order

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        thread_id = config["configurable"]["thread_id"]

        async def load(connection: Connection) -> CheckpointTuple | None:
            query = "SELECT kind, conversation FROM sessions WHERE id = %s"
            row = await one(connection, query, thread_id)
            if row is None or row[0] is None:
                return None
            checkpoint, metadata = self.serde.loads_typed(row)
            return CheckpointTuple(named(thread_id, checkpoint["id"]), checkpoint, metadata)

        return await self._database.transact(load)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id, ticket = config["configurable"]["thread_id"], holding.get()
        kind, conversation = self.serde.dumps_typed((checkpoint, metadata))

        async def store(connection: Connection) -> None:
            await self._order.check(connection, ticket)
            await connection.execute(
                "UPDATE sessions SET checkpoint = %s, kind = %s, conversation = %s WHERE id = %s",
                [checkpoint["id"], kind, conversation, thread_id],
            )

        await self._database.transact(store)
        return named(thread_id, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        pass


def named(thread_id: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": "",
            "checkpoint_id": checkpoint_id,
        }
    }


def as_session(session_id: str, row: tuple[datetime, datetime]) -> Session:
    return Session(str(session_id), *(when.astimezone(UTC) for when in row))
