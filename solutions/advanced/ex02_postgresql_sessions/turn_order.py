"""Who is next in a session, across replicas: a ticket for each turn, and a lease on it.

The lowest ticket of a session holds it. A replica renews the leases of its tickets; one that was
killed, or stopped for too long, renews none, and its tickets are removed by whoever is next in
line. A ticket that is gone has lost for good, and a turn without one stores nothing.

Tickets are rows, since PostgreSQL's own locks belong to a connection: to hold one for as long as
the model takes would be to hold a connection, and a few slow turns would use up the pool.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from weakref import WeakValueDictionary

from advanced.app.database import SessionStoreUnavailable
from shared.errors import AgentError, Overloaded, SessionBusy, SessionNotFound

from .database import Connection, Database, one

LOOK_AGAIN = 0.03
"""Seconds between two looks at the line: how late a turn may learn that it is next."""


class Ticket:
    """A turn's place in the line of a session; its number is 0 until it has one."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.number = 0


class TurnOrder:
    """`lease`: seconds until a ticket that nobody renews is void."""

    def __init__(self, database: Database, *, lease: float) -> None:
        self._database = database
        self._lease = lease
        self._looking = WeakValueDictionary[str, asyncio.Lock]()

    async def draw(self, connection: Connection, ticket: Ticket) -> None:
        """Take the last place. The transaction has locked the session's row: without that, a lower
        number might become visible after a higher one has looked at the line."""
        [ticket.number] = await one(
            connection,
            "INSERT INTO turns (session, until)"
            " VALUES (%s, clock_timestamp() + make_interval(secs => %s)) RETURNING number",
            ticket.session_id,
            self._lease,
        )

    async def hand_in(self, connection: Connection, ticket: Ticket) -> None:
        await connection.execute("DELETE FROM turns WHERE number = %s", [ticket.number])

    async def check(self, connection: Connection, ticket: Ticket) -> None:
        """Raises, and so undoes the transaction, if the ticket is gone; keeps it until the end."""
        query = "SELECT 1 FROM turns WHERE number = %s FOR UPDATE"
        if await one(connection, query, ticket.number) is None:
            raise await why_lost(connection, ticket)

    async def come_first(self, ticket: Ticket, deadline: float) -> None:
        """Wait until the ticket holds its session. Raises SessionBusy at the loop's `deadline`.

        Of all turns that wait here for one session, the first alone looks.
        """
        clock = asyncio.get_running_loop().time
        async with self._looking.setdefault(ticket.session_id, asyncio.Lock()):
            while not await self._database.transact(partial(self._is_first, ticket)):
                if clock() > deadline:
                    raise SessionBusy(retry_after=1)
                await asyncio.sleep(LOOK_AGAIN)

    @asynccontextmanager
    async def kept(self, ticket: Ticket) -> AsyncIterator[None]:
        """Renew the lease while the block lasts; should it be lost, end the block and say why."""
        try:
            async with asyncio.timeout(None) as guard:
                renewing = asyncio.create_task(self._renew(ticket, guard))
                try:
                    yield
                finally:
                    renewing.cancel()
        except TimeoutError:
            if not guard.expired():
                raise
            raise await self._database.transact(partial(why_lost, ticket=ticket)) from None

    async def _renew(self, ticket: Ticket, guard: asyncio.Timeout) -> None:
        renewed = True
        while renewed:
            await asyncio.sleep(self._lease / 4)
            with suppress(SessionStoreUnavailable):  # the next attempt may come in time
                renewed = await self._database.transact(partial(self._prolong, ticket))
        guard.reschedule(0)  # at once

    async def _prolong(self, ticket: Ticket, connection: Connection) -> bool:
        renewed = await connection.execute(
            "UPDATE turns SET until = clock_timestamp() + make_interval(secs => %s)"
            " WHERE number = %s",
            [self._lease, ticket.number],
        )
        return bool(renewed.rowcount)

    async def _is_first(self, ticket: Ticket, connection: Connection) -> bool:
        await connection.execute(
            "DELETE FROM turns WHERE session = %s AND number < %s AND until < clock_timestamp()",
            [ticket.session_id, ticket.number],
        )
        query = "SELECT number FROM turns WHERE session = %s ORDER BY number LIMIT 1"
        lowest = await one(connection, query, ticket.session_id)
        if lowest is None or lowest[0] > ticket.number:
            raise await why_lost(connection, ticket)
        return bool(lowest[0] == ticket.number)


async def why_lost(connection: Connection, ticket: Ticket) -> AgentError:
    query = "SELECT 1 FROM sessions WHERE id = %s"
    if await one(connection, query, ticket.session_id) is None:
        return SessionNotFound("The session was deleted.")
    return Overloaded("This turn was stopped for too long and lost its place.", retry_after=1)
