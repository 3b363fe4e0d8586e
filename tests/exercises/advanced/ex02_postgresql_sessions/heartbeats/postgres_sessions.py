"""The sessions' rows; what was said in them hangs on them by foreign keys."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, timedelta
from typing import Any, Self
from weakref import WeakValueDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import DataError, sql

from advanced.app.database import SessionStoreUnavailable
from advanced.app.sessions import NewId, new_id
from shared.errors import SessionNotFound
from shared.ports import Session, SessionPage

from .database import Connection, Database, one
from .turn_order import Ticket, TurnOrder

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
        self.ttl = ttl
        self.limit = limit
        self.sweep_every = sweep_every
        self.lines = WeakValueDictionary[str, asyncio.Lock]()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self.database.open()
            stack.push_async_callback(self.database.close)
            self.checkpoints = Saver(self.database, self.order)
            await stack.enter_async_context(self.order.running())
            sweeping = asyncio.create_task(self._keep_sweeping())
            stack.callback(sweeping.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def of(self, owner: str) -> "OwnedSessions":
        return OwnedSessions(self, owner)

    async def answers(self) -> bool:
        return await self.active() is not None

    async def active(self) -> int:
        query = "SELECT count(*) FROM sessions WHERE active > now() - %s"
        [count] = await self.database.transact(lambda c: one(c, query, self.ttl))
        return int(count)

    async def _keep_sweeping(self) -> None:
        while True:
            with suppress(SessionStoreUnavailable):
                await self.database.transact(self._sweep)
            await asyncio.sleep(self.sweep_every)

    async def _sweep(self, connection: Connection) -> None:
        await connection.execute(
            "DELETE FROM replicas WHERE alive < clock_timestamp() - make_interval(secs => %s)",
            [self.order._lease],
        )
        await connection.execute(
            "DELETE FROM sessions s WHERE NOT EXISTS (SELECT FROM turns WHERE session = s.id)"
            " AND (active <= now() - %s OR good_turns = 0)",
            [self.ttl],
        )


class OwnedSessions:
    def __init__(self, sessions: PostgresSessions, owner: str) -> None:
        self._all = sessions
        self._transact = sessions.database.transact
        self._owner = owner

    def new_id(self) -> str:
        return new_id()

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        order, ticket = self._all.order, Ticket(str(session_id))
        line = self._all.lines.setdefault(str(session_id), asyncio.Lock())
        deadline = asyncio.get_running_loop().time() + wait
        good = 0

        async def enter(connection: Connection) -> Session:
            if isinstance(session_id, NewId):
                await connection.execute(
                    "INSERT INTO sessions (id, owner, active, activity) VALUES (%s, %s, now(), 0)",
                    [str(session_id), self._owner],
                )
            session = await self._find(connection, session_id, lock=True)
            await self._touch(connection, session_id, 0)
            await order.draw(connection, ticket)
            return session

        async def leave(connection: Connection) -> None:
            if ticket.number:
                await self._touch(connection, session_id, good)
                await order.hand_in(connection, ticket)
                await self._tidy(connection, session_id)

        try:
            session = await self._transact(enter, line)
            async with order.kept(ticket):
                await order.come_first(ticket, deadline)
                holding.set(ticket)
                yield session
                good = 1
        finally:
            if good:
                await self._transact(leave, line)
            else:
                try:
                    await self._transact(leave, line)
                except SessionStoreUnavailable:
                    order.abandoned.append(ticket.number)

    async def get(self, session_id: str) -> Session:
        return await self._transact(lambda c: self._find(c, session_id))

    async def delete(self, session_id: str) -> None:
        async def delete(connection: Connection) -> None:
            await self._find(connection, session_id, lock=True)
            await connection.execute("DELETE FROM sessions WHERE id = %s", [str(session_id)])

        await self._transact(delete)

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        query = (
            "SELECT id, activity, count(*) OVER () FROM sessions"
            " WHERE owner = %s AND active > now() - %s ORDER BY activity DESC"
        )

        async def page(connection: Connection) -> SessionPage:
            found = await connection.execute(query, [self._owner, self._all.ttl])
            rows = await found.fetchall()
            later = [row for row in rows if cursor is None or row[1] < int(cursor)]
            return SessionPage(
                ids=[row[0] for row in later[:limit]],
                count=len(rows),
                next_cursor=str(later[limit - 1][1]) if len(later) > limit else None,
            )

        return await self._transact(page)

    async def _find(
        self, connection: Connection, session_id: str, *, lock: bool = False
    ) -> Session:
        query = sql.SQL(
            "SELECT created, active FROM sessions"
            " WHERE id = %s AND owner = %s AND active > now() - %s {}"
        ).format(sql.SQL("FOR UPDATE") if lock else sql.SQL(""))
        try:
            found = await connection.execute(query, [str(session_id), self._owner, self._all.ttl])
        except DataError:
            raise SessionNotFound from None
        if (row := await found.fetchone()) is None:
            raise SessionNotFound
        return Session(str(session_id), row[0].astimezone(UTC), row[1].astimezone(UTC))

    async def _touch(self, connection: Connection, session_id: str, good: int) -> None:
        await connection.execute(
            "UPDATE sessions SET active = now(), activity = nextval('activities'),"
            " good_turns = good_turns + %s WHERE id = %s",
            [good, str(session_id)],
        )

    async def _tidy(self, connection: Connection, session_id: str) -> None:
        query = "SELECT count(*) FROM sessions WHERE owner = %s AND good_turns > 0"
        [count] = await one(connection, query, self._owner)
        await connection.execute(
            "DELETE FROM sessions s WHERE id = %s AND good_turns = 0"
            " AND NOT EXISTS (SELECT FROM turns WHERE session = s.id)",
            [str(session_id)],
        )
        if count > self._all.limit:
            await connection.execute(
                "DELETE FROM sessions WHERE id = (SELECT id FROM sessions s WHERE owner = %s"
                " AND id <> %s AND NOT EXISTS (SELECT FROM turns WHERE session = s.id)"
                " ORDER BY activity LIMIT 1)",
                [self._owner, str(session_id)],
            )


class Saver(AsyncPostgresSaver):
    """One checkpoint a conversation; text that a jsonb cannot hold goes where the bytes go."""

    def __init__(self, database: Database, order: TurnOrder) -> None:
        super().__init__(database.pool)  # type: ignore[arg-type]  # it sets its own rows
        self._database = database
        self._order = order

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        found = await self._database.transact(lambda c: AsyncPostgresSaver(c).aget_tuple(config))
        if found is not None:
            values = found.checkpoint["channel_values"]
            for name, value in values.items():
                values[name] = value["text"] if isinstance(value, dict) else value
        return found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id, ticket = config["configurable"]["thread_id"], holding.get()
        values = {
            name: {"text": value} if isinstance(value, str) else value
            for name, value in checkpoint["channel_values"].items()
        }

        async def store(connection: Connection) -> RunnableConfig:
            await self._order.check(connection, ticket)
            saver = AsyncPostgresSaver(connection)
            await saver.adelete_thread(thread_id)
            return await saver.aput(
                config,
                {**checkpoint, "channel_values": values},
                metadata,
                checkpoint["channel_versions"],
            )

        return await self._database.transact(store)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        pass
