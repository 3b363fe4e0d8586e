"""One connection, opened at the start, and a lock around it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection, OperationalError

from advanced.app.database import SessionStoreUnavailable

TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id text PRIMARY KEY,
    owner text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    active timestamptz NOT NULL DEFAULT now(),
    expires timestamptz NOT NULL,
    activity bigint NOT NULL DEFAULT 0,
    proven boolean NOT NULL DEFAULT false
);
CREATE SEQUENCE IF NOT EXISTS activities;
CREATE TABLE IF NOT EXISTS turns (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    until timestamptz NOT NULL
);
"""

Connection = AsyncConnection[Any]
Result = TypeVar("Result")


class Database:
    def __init__(self, url: str, *, pool_size: int, patience: float) -> None:
        self._url = url
        self._patience = patience
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        self.pool = await AsyncConnection.connect(self._url, autocommit=True)
        while True:
            [locked] = await one(self.pool, "SELECT pg_try_advisory_lock(1)")
            if locked:
                break
            await asyncio.sleep(0.05)
        await self.pool.execute(TABLES)
        await AsyncPostgresSaver(self.pool).setup()  # type: ignore[arg-type]  # it sets its rows
        await self.pool.execute("SELECT pg_advisory_unlock(1)")

    async def close(self) -> None:
        await self.pool.close()

    async def transact(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        line: asyncio.Lock | None = None,
    ) -> Result:
        task = asyncio.create_task(self._transact(work, line or asyncio.Lock()))
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
                self._lock,
                self.pool.transaction(),
            ):
                return await work(self.pool)
        except (OperationalError, TimeoutError) as exc:
            raise SessionStoreUnavailable(retry_after=1) from exc


async def one(connection: Connection, query: str, *values: object) -> Any:
    return await (await connection.execute(query, values or None)).fetchone()
