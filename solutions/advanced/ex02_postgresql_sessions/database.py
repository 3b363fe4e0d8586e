"""PostgreSQL as one replica uses it: few connections, short transactions, and no long waits."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool

from advanced.app.database import SessionStoreUnavailable

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.05
"""Seconds between two looks at whether another replica has made the tables."""

TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id text PRIMARY KEY,
    owner text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    active timestamptz NOT NULL DEFAULT now(),
    expires timestamptz NOT NULL,
    activity bigint NOT NULL DEFAULT 0,       -- orders the owner's sessions, newest highest
    proven boolean NOT NULL DEFAULT false     -- whether a turn of it has ever gone well
);
CREATE SEQUENCE IF NOT EXISTS activities;
CREATE INDEX IF NOT EXISTS sessions_of_owner ON sessions (owner, activity);
CREATE INDEX IF NOT EXISTS sessions_by_age ON sessions (expires);

CREATE TABLE IF NOT EXISTS turns (            -- who holds a session, and who waits for it
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    until timestamptz NOT NULL                -- when its lease ends
);
CREATE INDEX IF NOT EXISTS turns_of_session ON turns (session, number)
"""

Connection = AsyncConnection[Any]
Result = TypeVar("Result")


class Database:
    """At most `pool_size` connections, and none is held while a turn waits or runs.

    `patience`: seconds in which the database has to answer. A database that is away is asked again
    by the next request, not after a pause that grows.
    """

    def __init__(self, url: str, *, pool_size: int, patience: float) -> None:
        self.pool = AsyncConnectionPool(
            url,
            kwargs={"autocommit": True, "connect_timeout": math.ceil(patience)},
            min_size=0,
            max_size=pool_size,
            open=False,
            timeout=patience,
            reconnect_timeout=0,
            check=self._check,
        )
        self._patience = patience

    async def open(self) -> None:
        """Connect, and make the tables unless they are there. Raises OperationalError."""
        logging.getLogger("psycopg.pool").setLevel(logging.WARNING)  # else three lines a query
        await self.pool.open()
        async with self.pool.connection() as connection:
            await self._set_up(connection)

    async def close(self) -> None:
        await self.pool.close()

    async def transact(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        line: asyncio.Lock | None = None,
    ) -> Result:
        """Run `work` in a transaction; in a `line`, after what came to it earlier.

        It runs to its end though nobody may wait for it any more: a turn that is cancelled while it
        takes its place knows, once it is next in line, whether it has one to give up. Raises
        SessionStoreUnavailable within `patience`, though what psycopg does to end a query that the
        server does not answer takes it ten seconds.
        """
        task = asyncio.create_task(self._transact(work, line or asyncio.Lock()))
        task.add_done_callback(lambda over: over.cancelled() or over.exception())  # nobody has to
        await asyncio.wait([task], timeout=self._patience)
        if not task.done():
            raise SessionStoreUnavailable(retry_after=1)
        return task.result()

    async def _transact(
        self, work: Callable[[Connection], Awaitable[Result]], line: asyncio.Lock
    ) -> Result:
        try:
            async with (
                asyncio.timeout(self._patience),
                line,
                self.pool.connection() as connection,
                connection.transaction(),
            ):
                return await work(connection)
        except (OperationalError, TimeoutError) as exc:
            logger.error("The database cannot be used: %s", exc)
            raise SessionStoreUnavailable(retry_after=1) from exc

    async def _check(self, connection: Connection) -> None:
        """Before a connection is handed out. Where one is dead the others are, too: after a restart
        of the database the pool would try them one by one, with a pause that grows."""
        try:
            await AsyncConnectionPool.check_connection(connection)
        except OperationalError:
            await self.pool.drain()
            raise

    async def _set_up(self, connection: Connection) -> None:
        """One replica makes the tables; CREATE ... IF NOT EXISTS alone fails if two do at once.

        The others do not wait inside PostgreSQL: CREATE INDEX CONCURRENTLY, which the checkpointer
        uses, waits for all statements under way, and for one that waits for this lock for ever.
        """
        while True:
            [locked] = await one(connection, "SELECT pg_try_advisory_lock(hashtext('sessions'))")
            if locked:
                break
            await asyncio.sleep(LOOK_AGAIN)
        try:
            for statement in TABLES.split(";"):  # all in one would lock all tables together
                await connection.execute(statement)
            await AsyncPostgresSaver(connection).setup()
        finally:
            await connection.execute("SELECT pg_advisory_unlock(hashtext('sessions'))")


async def one(connection: Connection, query: str, *values: object) -> Any:
    """The first row that a query answers, or None."""
    return await (await connection.execute(query, values or None)).fetchone()
