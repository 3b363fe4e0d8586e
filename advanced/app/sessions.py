"""The sessions of all users, in one SQLite file that several workers share.

A `SessionStore` (`shared/ports.py`) is one user's view of it: `sessions.of(owner)`. What is said in
a session is in `sessions.checkpoints`, in the same file, and goes when the session goes.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from shared.errors import ConfigurationError, SessionNotFound
from shared.memory import acquire, utc_now
from shared.ports import Session, SessionPage

from .checkpoints import Fence, SqliteCheckpoints
from .database import Database, SessionStoreUnavailable
from .tickets import LEASE, Ticket, Tickets

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SWEEP_EVERY = 60.0
AT_ONCE = 100
"""Sessions, or revoked tokens, that one transaction of a sweep deletes: others write, too."""

FREE_PAGES = 1000
"""Pages that one transaction of a sweep gives back to the file system."""

holding: ContextVar[tuple[str, Ticket] | None] = ContextVar("holding", default=None)
"""The session whose turn this task, or one that it started, runs."""


class NewId(str):
    """An id that the server has just made. A turn under it makes the session; under a plain
    string, which is all that a client can send, it must be there already."""

    __slots__ = ()


def new_id() -> NewId:
    return NewId(secrets.token_urlsafe(16))  # 128 random bits


class SqliteSessions:
    """Open with `async with`, once in each worker.

    A session expires `ttl` after its last activity. Each owner has `limit` of them at most; the
    longest idle makes room, as in `MemorySessions`. All workers need the same values.
    """

    def __init__(
        self,
        path: Path,
        *,
        ttl: timedelta = timedelta(days=7),
        limit: int = 1000,
        clock: Callable[[], datetime] = utc_now,
        lease: float = LEASE,
        patience: float = 5.0,
    ) -> None:
        self.database = Database(path, patience=patience)
        self.tickets = Tickets(self.database, lease=lease)
        self.checkpoints = SqliteCheckpoints(self.database, self._hold)
        self.limit = limit
        self._ttl = ttl
        self._clock = clock
        self._locks = WeakValueDictionary[tuple[str, str], asyncio.Lock]()
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises ConfigurationError if the file cannot be used."""
        try:
            await self.check()
        except SessionStoreUnavailable as exc:
            await self.close()
            reason = getattr(exc.__cause__, "strerror", None) or exc.__cause__
            raise ConfigurationError(
                f"STATE_DIR: the session store {self.database.path} cannot be used ({reason}); "
                "repair it, move it away, or choose another folder."
            ) from exc
        self._sweeping = asyncio.create_task(self._keep_sweeping())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self.tickets.stop()
        await self.database.close()

    def of(self, owner: str) -> "OwnedSessions":
        """The sessions of one user. Costs nothing: make one for each request."""
        return OwnedSessions(self, owner)

    async def check(self) -> None:
        """Raises SessionStoreUnavailable if the file cannot be read."""
        await self.database.read(
            lambda connection: number(connection, "SELECT max(number) FROM sessions")
        )

    async def answers(self) -> bool:
        """The same for a probe: whether the file can be read."""
        await self.check()
        return True

    async def active(self) -> int:
        """How many sessions there are, of all users."""
        alive = self.alive_since()
        return await self.database.read(
            lambda connection: number(
                connection, "SELECT count(*) FROM sessions WHERE active > ?", alive
            )
        )

    async def revoke(self, jti: str, until: datetime) -> None:
        """Refuse a token in every worker, until it expires by itself."""
        await self.database.write(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO revoked VALUES (?, ?)", (jti, as_number(until))
            )
        )

    async def is_revoked(self, jti: str) -> bool:
        """Raises SessionStoreUnavailable rather than let a revoked token pass."""
        return self.database.look("SELECT 1 FROM revoked WHERE jti = ?", jti)

    async def sweep(self) -> None:
        """Delete what has expired, and shrink the file. Runs by itself every SWEEP_EVERY s."""
        while await self.database.write(self._sweep_some):
            pass

    def lock(self, owner: str, session_id: str) -> asyncio.Lock:
        """First come, first served. Gone when nobody holds it or waits for it."""
        return self._locks.setdefault((owner, session_id), asyncio.Lock())

    def now(self) -> int:
        return as_number(self._clock())

    def alive_since(self) -> int:
        """Sessions without activity since then have expired."""
        return as_number(self._clock() - self._ttl)

    async def _keep_sweeping(self) -> None:
        while True:
            with suppress(SessionStoreUnavailable):  # it is logged where it is raised
                await self.sweep()
            await asyncio.sleep(SWEEP_EVERY)

    def _sweep_some(self, connection: sqlite3.Connection) -> bool:
        """Whether there may be more."""
        self.tickets.clear(connection)
        expired = connection.execute(
            "DELETE FROM sessions WHERE number IN (SELECT number FROM sessions"
            " WHERE active <= ? AND number NOT IN (SELECT session FROM turns) LIMIT ?)",
            (self.alive_since(), AT_ONCE),
        ).rowcount
        unproven = connection.execute(  # their workers were killed in the first turn
            "DELETE FROM sessions WHERE number IN (SELECT number FROM sessions"
            " WHERE NOT proven AND number NOT IN (SELECT session FROM turns) LIMIT ?)",
            (AT_ONCE,),
        ).rowcount
        revoked = connection.execute(
            "DELETE FROM revoked WHERE jti IN (SELECT jti FROM revoked WHERE until <= ? LIMIT ?)",
            (self.now(), AT_ONCE),
        ).rowcount
        # It commits first. `execute` would free one page, the first step of the statement.
        connection.executescript(f"PRAGMA incremental_vacuum({FREE_PAGES})")
        return max(expired, unproven, revoked) == AT_ONCE

    def _hold(self, session_id: str) -> Fence:
        held = holding.get()
        if held is None or held[0] != session_id:
            raise RuntimeError("only a session's own turn may store its conversation")

        def fence(connection: sqlite3.Connection) -> int:
            self.tickets.check(connection, held[1])
            return held[1].session

        return fence


class OwnedSessions:
    """A SessionStore of one owner's sessions; those of others do not exist for it."""

    def __init__(self, sessions: SqliteSessions, owner: str) -> None:
        self._sessions = sessions
        self._database = sessions.database
        self._tickets = sessions.tickets
        self._owner = owner

    def new_id(self) -> str:
        """An id for a session that is to be made by its first turn."""
        return new_id()

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        """As the port says. Raises SessionNotFound for an id that is neither new nor the owner's.

        The block ends with SessionNotFound soon after the session was deleted by another worker,
        and with Overloaded if this worker was stopped for so long that another turn came first.
        """
        ticket = Ticket()
        deadline = asyncio.get_running_loop().time() + wait
        # The loop gets no chance in between, so turns have the same order in both lines.
        async with (
            self._in_file(ticket, session_id) as entering,
            self._tickets.kept(ticket),
            self._in_worker(session_id, wait),
        ):
            session = await entering
            await self._tickets.come_first(ticket, deadline)
            holding.set((session_id, ticket))
            try:
                yield session
            finally:
                holding.set(None)

    async def get(self, session_id: str) -> Session:
        _, session = await self._database.read(partial(self._find, session_id))
        return session

    async def delete(self, session_id: str) -> None:
        await self._database.write(partial(self._delete, session_id))

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        return await self._database.read(partial(self._page, limit, cursor))

    @asynccontextmanager
    async def _in_file(self, ticket: Ticket, session_id: str) -> AsyncIterator[Awaitable[Session]]:
        """Be in the line of all workers while the block lasts; the place is being taken."""
        try:
            yield self._database.write(partial(self._enter, ticket, session_id))
        except BaseException:
            with suppress(SessionStoreUnavailable):  # what went wrong before matters more
                await self._database.write(partial(self._leave, ticket, False))
            raise
        await self._database.write(partial(self._leave, ticket, True))

    @asynccontextmanager
    async def _in_worker(self, session_id: str, wait: float) -> AsyncIterator[None]:
        """Be the first of this worker's line. Who is over wakes the next one, without a pause."""
        lock = self._sessions.lock(self._owner, session_id)  # an owner waits for nobody else's
        await acquire(lock, wait)
        try:
            yield
        finally:
            lock.release()

    def _enter(self, ticket: Ticket, session_id: str, connection: sqlite3.Connection) -> Session:
        if isinstance(session_id, NewId):
            self._make(session_id, connection)
        found, session = self._find(session_id, connection)
        self._tickets.draw(connection, ticket, found)
        self._touch(found, connection)
        return session

    def _leave(self, ticket: Ticket, went_well: bool, connection: sqlite3.Connection) -> None:
        if not ticket.number:
            return  # there was no such session
        self._tickets.hand_in(connection, ticket)
        self._touch(ticket.session, connection)
        if went_well:
            connection.execute("UPDATE sessions SET proven = 1 WHERE number = ?", (ticket.session,))
            self._make_room(ticket.session, connection)
        else:
            connection.execute(
                "DELETE FROM sessions WHERE number = ? AND NOT proven"
                " AND number NOT IN (SELECT session FROM turns)",
                (ticket.session,),
            )

    def _make(self, session_id: str, connection: sqlite3.Connection) -> None:
        now = self._sessions.now()
        connection.execute(
            "INSERT OR IGNORE INTO sessions (id, owner, created, active, activity)"
            " VALUES (?, ?, ?, ?, 0)",
            (session_id, self._owner, now, now),
        )

    def _find(self, session_id: str, connection: sqlite3.Connection) -> tuple[int, Session]:
        """Unknown, foreign and expired are the same. Raises SessionNotFound."""
        row = connection.execute(
            "SELECT number, created, active FROM sessions"
            " WHERE id = ? AND owner = ? AND active > ?",
            (session_id, self._owner, self._sessions.alive_since()),
        ).fetchone()
        if row is None:
            raise SessionNotFound
        found, created, active = row
        return found, Session(str(session_id), as_time(created), as_time(active))

    def _touch(self, session: int, connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE sessions SET active = ?, activity ="
            " (SELECT max(activity) + 1 FROM sessions WHERE owner = ?) WHERE number = ?",
            (self._sessions.now(), self._owner, session),
        )

    def _make_room(self, session: int, connection: sqlite3.Connection) -> None:
        proven = "SELECT count(*) FROM sessions WHERE owner = ? AND proven"
        if number(connection, proven, self._owner) > self._sessions.limit:
            connection.execute(
                "DELETE FROM sessions WHERE number = (SELECT number FROM sessions"
                " WHERE owner = ? AND number <> ?"
                " AND number NOT IN (SELECT session FROM turns) ORDER BY activity LIMIT 1)",
                (self._owner, session),
            )

    def _delete(self, session_id: str, connection: sqlite3.Connection) -> None:
        session, _ = self._find(session_id, connection)
        connection.execute("DELETE FROM sessions WHERE number = ?", (session,))

    def _page(self, limit: int, cursor: str | None, connection: sqlite3.Connection) -> SessionPage:
        alive = self._sessions.alive_since()
        before = 2**63 - 1 if cursor is None else int(cursor)
        rows = connection.execute(
            "SELECT id, activity FROM sessions WHERE owner = ? AND activity < ? AND active > ?"
            " ORDER BY activity DESC LIMIT ?",
            (self._owner, before, alive, limit + 1),
        ).fetchall()
        return SessionPage(
            ids=[session_id for session_id, _ in rows[:limit]],
            count=number(
                connection,
                "SELECT count(*) FROM sessions WHERE owner = ? AND active > ?",
                self._owner,
                alive,
            ),
            next_cursor=str(rows[limit - 1][1]) if len(rows) > limit else None,
        )


def as_number(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def as_time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def number(connection: sqlite3.Connection, query: str, *values: object) -> int:
    """The one number that a query answers, or 0 for none."""
    (answer,) = connection.execute(query, values).fetchone()
    return int(answer or 0)
