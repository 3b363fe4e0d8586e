"""Your part: PostgreSQL as one replica uses it: few connections, short transactions."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from psycopg import AsyncConnection

TABLES = ""
"""What is kept of a session beside what was said in it. The checkpointer has tables of its own."""

Connection = AsyncConnection[Any]
Result = TypeVar("Result")


class Database:
    """At most `pool_size` connections, and none is held while a turn waits or runs.

    `patience`: seconds in which the database has to answer.
    """

    def __init__(self, url: str, *, pool_size: int, patience: float) -> None:
        self._url = url
        self._pool_size = pool_size
        self._patience = patience

    async def open(self) -> None:
        """Connect, and make the tables unless they are there. Raises OperationalError."""
        # TODO 1: open a pool; then the tables, and remember that another replica may make them, too

    async def close(self) -> None:
        """Give back what `open` took."""

    async def transact(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        line: asyncio.Lock | None = None,
    ) -> Result:
        """Run `work` in a transaction; in a `line`, after what came to it earlier.

        Raises SessionStoreUnavailable (`advanced/app/database.py`), with `retry_after`, within
        `patience` if the database is away, or says nothing.
        """
        raise NotImplementedError("TODO 1: open() the pool, and run the work in one transaction")


async def one(connection: Connection, query: str, *values: object) -> Any:
    """The first row that a query answers, or None."""
    return await (await connection.execute(query, values or None)).fetchone()
