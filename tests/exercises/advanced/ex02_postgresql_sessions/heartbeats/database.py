"""A pool, and beside it one connection that listens; foreign keys tidy up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, LiteralString, TypeVar

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool

from advanced.app.database import SessionStoreUnavailable

TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id text PRIMARY KEY,
    owner text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    active timestamptz NOT NULL,
    activity bigint NOT NULL,
    good_turns int NOT NULL DEFAULT 0
);
CREATE SEQUENCE IF NOT EXISTS activities;
CREATE TABLE IF NOT EXISTS replicas (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alive timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS turns (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    replica bigint NOT NULL REFERENCES replicas ON DELETE CASCADE
);
CREATE OR REPLACE FUNCTION tell_turns() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('turns', OLD.session); RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER turn_over AFTER DELETE ON turns
    FOR EACH ROW EXECUTE FUNCTION tell_turns();
"""

KEYS: tuple[LiteralString, ...] = tuple(
    f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS of_session, ADD CONSTRAINT of_session"
    " FOREIGN KEY (thread_id) REFERENCES sessions ON DELETE CASCADE"
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
)

Connection = AsyncConnection[Any]
Result = TypeVar("Result")


class Database:
    def __init__(self, url: str, *, pool_size: int, patience: float) -> None:
        self.url = url
        self.patience = patience
        self.pool = AsyncConnectionPool(
            url,
            kwargs={"autocommit": True},
            min_size=1,
            max_size=pool_size - 1,  # the last one listens
            open=False,
            timeout=patience,
            reconnect_timeout=0.5,
        )

    async def open(self) -> None:
        async with await AsyncConnection.connect(self.url, autocommit=True) as connection:
            mine = None
            while mine is None:
                await asyncio.sleep(0.05)
                mine = await one(connection, "SELECT 1 WHERE pg_try_advisory_lock(5)")
            if await one(connection, "SELECT to_regclass('turns')") == (None,):
                await connection.execute(TABLES)
                await AsyncPostgresSaver(connection).setup()  # type: ignore[arg-type]
                for key in KEYS:
                    await connection.execute(key)
        await self.pool.open()

    async def close(self) -> None:
        await self.pool.close()

    async def transact(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        line: asyncio.Lock | None = None,
    ) -> Result:
        task = asyncio.create_task(self._transact(work, line or asyncio.Lock()))
        task.add_done_callback(lambda over: over.cancelled() or over.exception())
        done, _ = await asyncio.wait([task], timeout=self.patience)
        if not done:
            task.cancel()
            raise SessionStoreUnavailable(retry_after=1)
        return task.result()

    async def _transact(
        self, work: Callable[[Connection], Awaitable[Result]], line: asyncio.Lock
    ) -> Result:
        try:
            async with line:
                for _ in range(self.pool.max_size + 1):
                    async with self.pool.connection() as connection:
                        if not await is_alive(connection):
                            continue
                        async with connection.transaction():
                            return await work(connection)
        except OperationalError as exc:
            raise SessionStoreUnavailable(retry_after=1) from exc
        raise SessionStoreUnavailable(retry_after=1)


async def is_alive(connection: Connection) -> bool:
    try:
        await connection.execute("SELECT 1")
    except OperationalError:
        return False
    return True


async def one(connection: Connection, query: str, *values: object) -> Any:
    return await (await connection.execute(query, values or None)).fetchone()
