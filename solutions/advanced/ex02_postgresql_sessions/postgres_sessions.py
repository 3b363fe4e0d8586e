"""The sessions of all users in PostgreSQL, and what was said in them, for any number of replicas.

A `SessionStore` (`shared/ports.py`) is one user's view of them: `sessions.of(owner)`. Whatever time
it is, the database says so: replicas have clocks of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
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
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg import OperationalError

from advanced.app.database import SessionStoreUnavailable
from advanced.app.sessions import NewId, new_id
from shared.errors import ConfigurationError, SessionNotFound
from shared.ports import Session, SessionPage

from .database import Connection, Database, one
from .turn_order import Ticket, TurnOrder

AT_ONCE = 1000
"""Sessions that one sweep deletes."""

LAST_CURSOR = 10**18
"""Above every activity: a cursor has 18 digits at most."""

holding: ContextVar[Ticket] = ContextVar("holding")
"""The ticket of the turn that this task, or one that it started, runs."""


class PostgresSessions:
    """Open with `async with`, once in each replica; all need the same values.

    A session expires `ttl` after its last activity. Each owner has `limit` of them at most; the
    longest idle makes room. What has expired is deleted every `sweep_every` seconds. A replica that
    was killed blocks its sessions for `lease` seconds. `pool_size` and `patience` as in `Database`.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl: timedelta = timedelta(days=7),
        limit: int = 1000,
        lease: float = 8.0,
        sweep_every: float = 60.0,
        pool_size: int = 10,
        patience: float = 3.0,
    ) -> None:
        self.database = Database(url, pool_size=pool_size, patience=patience)
        self.order = TurnOrder(self.database, lease=lease)
        self.ttl = ttl
        self.limit = limit
        self._sweep_every = sweep_every
        self._lines = WeakValueDictionary[str, asyncio.Lock]()

    async def __aenter__(self) -> Self:
        """Raises ConfigurationError if the database cannot be used."""
        try:
            await self.database.open()
        except OperationalError as exc:
            await self.database.close()
            raise ConfigurationError(
                "DATABASE_URL: the database does not answer; see whether it runs, and whether the "
                "address, the user and the password are right."
            ) from exc
        self.checkpoints = PostgresCheckpoints(self.database, self.order)
        self._sweeping = asyncio.create_task(self._keep_sweeping())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sweeping.cancel()
        await asyncio.wait([self._sweeping])
        await self.database.close()

    def of(self, owner: str) -> "OwnedSessions":
        """The sessions of one user. Costs nothing: make one for each request."""
        return OwnedSessions(self, owner)

    async def answers(self) -> bool:
        """For a probe. Raises SessionStoreUnavailable."""
        await self.database.transact(lambda connection: one(connection, "SELECT 1"))
        return True

    async def active(self) -> int:
        """How many sessions there are, of all users."""
        query = "SELECT count(*) FROM sessions WHERE expires > now()"
        [count] = await self.database.transact(lambda connection: one(connection, query))
        return int(count)

    def line(self, session_id: str) -> asyncio.Lock:
        """Of this replica's turns: PostgreSQL sees them in the order in which they came."""
        return self._lines.setdefault(session_id, asyncio.Lock())

    async def _keep_sweeping(self) -> None:
        while True:
            with suppress(SessionStoreUnavailable):  # it is logged where it is raised
                await self.database.transact(self._sweep)
            await asyncio.sleep(self._sweep_every)

    async def _sweep(self, connection: Connection) -> None:
        """Delete what has expired, and what a first turn has left whose replica was killed."""
        await connection.execute("DELETE FROM turns WHERE until < clock_timestamp()")
        await forget(
            connection,
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions"
            " WHERE (expires <= now() OR NOT proven) AND id NOT IN (SELECT session FROM turns)"
            " LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id",
            AT_ONCE,
        )


class OwnedSessions:
    """A SessionStore of one owner's sessions; those of others do not exist for it."""

    def __init__(self, sessions: PostgresSessions, owner: str) -> None:
        self._sessions = sessions
        self._transact = sessions.database.transact
        self._order = sessions.order
        self._owner = owner

    def new_id(self) -> str:
        """An id for a session that is to be made by its first turn."""
        return new_id()

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        """As the port says. Raises SessionNotFound for an id that is neither new nor the owner's.

        The block ends with SessionNotFound soon after the session was deleted by another replica,
        and with Overloaded if this one was stopped for so long that another turn came first.
        """
        ticket, line = Ticket(session_id), self._sessions.line(session_id)
        deadline = asyncio.get_running_loop().time() + wait
        try:
            session = await self._transact(partial(self._enter, ticket), line)
            async with self._order.kept(ticket):
                await self._order.come_first(ticket, deadline)
                holding.set(ticket)
                yield session
        except BaseException as exc:
            if ticket.number or isinstance(exc, asyncio.CancelledError):  # it may be about to have
                with suppress(SessionStoreUnavailable):  # what went wrong before matters more
                    await self._transact(partial(self._leave, ticket, False), line)
            raise
        await self._transact(partial(self._leave, ticket, True), line)

    async def get(self, session_id: str) -> Session:
        """Raises SessionNotFound."""
        query = (
            "SELECT created, active FROM sessions WHERE id = %s AND owner = %s AND expires > now()"
        )
        whose = self._whose(session_id)
        return as_session(session_id, await self._transact(lambda c: one(c, query, *whose)))

    async def delete(self, session_id: str) -> None:
        """Forget the session and its checkpoints. Raises SessionNotFound."""
        query = "DELETE FROM sessions WHERE id = %s AND owner = %s AND expires > now() RETURNING id"
        whose = self._whose(session_id)
        if not await self._transact(lambda c: forget(c, query, *whose)):
            raise SessionNotFound

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        return await self._transact(partial(self._page, limit, cursor))

    def _whose(self, session_id: str) -> tuple[str, str]:
        """Raises SessionNotFound for an id that PostgreSQL's text cannot hold."""
        if "\0" in session_id:
            raise SessionNotFound
        return str(session_id), self._owner

    async def _enter(self, ticket: Ticket, connection: Connection) -> Session:
        whose = self._whose(ticket.session_id)
        if isinstance(ticket.session_id, NewId):
            await connection.execute(
                "INSERT INTO sessions (id, owner, expires) VALUES (%s, %s, 'infinity')", whose
            )
        row = await one(
            connection,
            "UPDATE sessions SET active = now(), expires = now() + %s,"
            " activity = nextval('activities')"
            " WHERE id = %s AND owner = %s AND expires > now() RETURNING created, active",
            self._sessions.ttl,
            *whose,
        )
        session = as_session(ticket.session_id, row)
        await self._order.draw(connection, ticket)
        return session

    async def _leave(self, ticket: Ticket, went_well: bool, connection: Connection) -> None:
        if not ticket.number:
            return  # there was no such session
        await connection.execute(
            "UPDATE sessions SET active = now(), expires = now() + %s,"
            " activity = nextval('activities'), proven = proven OR %s WHERE id = %s",
            [self._sessions.ttl, went_well, ticket.session_id],
        )
        await self._order.hand_in(connection, ticket)
        if went_well:
            await self._make_room(ticket.session_id, connection)
        else:
            await forget(
                connection,
                "DELETE FROM sessions WHERE id = %s AND NOT proven"
                " AND id NOT IN (SELECT session FROM turns) RETURNING id",
                ticket.session_id,
            )

    async def _make_room(self, session_id: str, connection: Connection) -> None:
        await forget(
            connection,
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions"
            " WHERE owner = %s AND id <> %s AND id NOT IN (SELECT session FROM turns)"
            " ORDER BY activity LIMIT (SELECT greatest(count(*) - %s, 0) FROM sessions"
            " WHERE owner = %s AND proven) FOR UPDATE SKIP LOCKED) RETURNING id",
            self._owner,
            session_id,
            self._sessions.limit,
            self._owner,
        )

    async def _page(self, limit: int, cursor: str | None, connection: Connection) -> SessionPage:
        found = await connection.execute(
            "SELECT id, activity FROM sessions WHERE owner = %s AND expires > now()"
            " AND activity < %s ORDER BY activity DESC LIMIT %s",
            [self._owner, LAST_CURSOR if cursor is None else int(cursor), limit + 1],
        )
        rows = await found.fetchall()
        count = "SELECT count(*) FROM sessions WHERE owner = %s AND expires > now()"
        return SessionPage(
            ids=[session_id for session_id, _ in rows[:limit]],
            count=(await one(connection, count, self._owner))[0],
            next_cursor=str(rows[limit - 1][1]) if len(rows) > limit else None,
        )


class PostgresCheckpoints(AsyncPostgresSaver):
    """LangGraph's own tables, of which a conversation's last checkpoint alone is kept.

    Only a session's turn may write one, and only while it holds the session.
    """

    def __init__(self, database: Database, order: TurnOrder) -> None:
        # None allows LangGraph's list of safe types alone: else whoever can write to the database
        # chooses what is imported when it is read.
        super().__init__(database.pool, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        self._database = database
        self._order = order

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._database.transact(
            lambda connection: self._on(connection).aget_tuple(config)
        )

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Of the channels, `messages` alone is kept: the others are of one turn. The question and
        the answer are among them as text, which would go into a jsonb, and that holds no NUL."""
        thread_id = config["configurable"]["thread_id"]
        values = checkpoint["channel_values"].items()
        kept = {name: value for name, value in values if name == "messages"}

        async def store(connection: Connection) -> RunnableConfig:
            await self._order.check(connection, holding.get())
            saver = self._on(connection)
            await saver.adelete_thread(thread_id)
            return await saver.aput(
                config,
                {**checkpoint, "channel_values": kept},
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
        """Nothing is kept: a turn that failed is asked again, never resumed."""

    def _on(self, connection: Connection) -> AsyncPostgresSaver:
        return AsyncPostgresSaver(connection, serde=self.serde)


async def forget(connection: Connection, query: str, *values: object) -> int:
    """Delete sessions, and their checkpoints, whose tables know of no session. How many it were.

    `query` is a DELETE that returns their ids.
    """
    deleted = await connection.execute(query, values)
    ids = [session_id for (session_id,) in await deleted.fetchall()]
    await AsyncPostgresSaver(connection).aprune(ids, strategy="delete")
    return len(ids)


def as_session(session_id: str, row: tuple[datetime, datetime] | None) -> Session:
    """Unknown, foreign and expired are the same: no row. Raises SessionNotFound."""
    if row is None:
        raise SessionNotFound
    created, active = row
    return Session(str(session_id), created.astimezone(UTC), active.astimezone(UTC))
