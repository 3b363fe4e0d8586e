"""Who is next in a session, across workers: a numbered ticket for each turn, and a lease on it.

The lowest ticket of a session holds it. A worker renews the leases of all its tickets at once; one
that was killed, or stopped for too long, renews none, and its tickets are removed by the next
in line. Numbers are never used twice, so a ticket that is not in the file has lost for good, and
whoever finds it missing, in the transaction that would store an answer, stores nothing.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from shared.errors import AgentError, Overloaded, SessionBusy, SessionNotFound

from .database import Database, SessionStoreUnavailable

logger = logging.getLogger(__name__)

LEASE = 8.0
"""Seconds until a ticket that nobody renews is void: how long a killed worker blocks a session."""

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.05
"""Seconds between two looks at the line. SQLite cannot notify, so the second number is also how
late a turn may learn that its predecessor in another worker is over."""


class Ticket:
    """A turn's place in the line of a session. The numbers are set, on the database's thread, by
    the transaction that puts it there; 0 means that it is not in the file yet."""

    def __init__(self) -> None:
        self.session = 0
        self.number = 0
        self.first = False
        self.lost: AgentError | None = None
        self.guard: asyncio.Timeout


class Tickets:
    """This worker's tickets. The methods that take a connection are steps of a transaction."""

    def __init__(self, database: Database, *, lease: float = LEASE) -> None:
        self._database = database
        self._lease = lease
        self._kept = set[Ticket]()
        self._renewing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def kept(self, ticket: Ticket) -> AsyncIterator[None]:
        """Renew the lease while the block lasts; should it be lost, end the block and say why."""
        try:
            async with asyncio.timeout(None) as ticket.guard:
                self._keep(ticket)
                try:
                    yield
                finally:
                    self._kept.discard(ticket)
        except TimeoutError:
            if ticket.lost is None:
                raise
            raise ticket.lost from None

    async def come_first(self, ticket: Ticket, deadline: float) -> None:
        """Wait until the ticket holds its session. Raises SessionBusy at the loop's `deadline`."""
        clock, pause = asyncio.get_running_loop().time, FIRST_PAUSE
        while not ticket.first:
            blocked = await self._database.read(partial(self._is_blocked, ticket))
            if not blocked:
                await self._database.write(partial(self._step_forward, ticket))
            elif (left := deadline - clock()) > 0:
                await asyncio.sleep(min(pause, left))
                pause = min(1.5 * pause, LONGEST_PAUSE)
            else:
                raise SessionBusy(retry_after=1)

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    def draw(self, connection: sqlite3.Connection, ticket: Ticket, session: int) -> None:
        """Put the ticket at the end of the session's line."""
        number = connection.execute(
            "INSERT INTO turns (session, until) VALUES (?, ?)",
            (session, time.time() + self._lease),
        ).lastrowid
        ticket.session, ticket.number = session, number or 0
        ticket.first = not ahead_of(connection, ticket)

    def hand_in(self, connection: sqlite3.Connection, ticket: Ticket) -> None:
        connection.execute("DELETE FROM turns WHERE number = ?", (ticket.number,))

    def clear(self, connection: sqlite3.Connection) -> None:
        """Remove the tickets of dead workers, whether or not anybody waits behind them."""
        now = time.time()
        connection.execute(
            "DELETE FROM turns WHERE until NOT BETWEEN ? AND ?", (now, now + 2 * self._lease)
        )

    def check(self, connection: sqlite3.Connection, ticket: Ticket) -> None:
        """Raises, and so undoes the transaction, if the ticket does not hold its session."""
        known = connection.execute("SELECT 1 FROM turns WHERE number = ?", (ticket.number,))
        if not known.fetchone() or ahead_of(connection, ticket):
            raise why_lost(connection, ticket)

    def _is_blocked(self, ticket: Ticket, connection: sqlite3.Connection) -> bool:
        return any(self._holds(until) for _, until in ahead_of(connection, ticket))

    def _step_forward(self, ticket: Ticket, connection: sqlite3.Connection) -> None:
        """Remove the tickets ahead whose leases have run out, and see whether that was all."""
        void = [number for number, until in ahead_of(connection, ticket) if not self._holds(until)]
        connection.executemany("DELETE FROM turns WHERE number = ?", [(number,) for number in void])
        ticket.first = not ahead_of(connection, ticket)
        if ticket.first:
            self.check(connection, ticket)

    def _holds(self, until: float) -> bool:
        """A lease that ends later than any can was written before the clock was put back."""
        return 0 < until - time.time() < 2 * self._lease

    def _keep(self, ticket: Ticket) -> None:
        self._kept.add(ticket)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while self._kept:
            await asyncio.sleep(self._lease / 8)
            in_file = [ticket for ticket in self._kept if ticket.number]
            try:
                lost = await self._database.write(partial(self._prolong, in_file))
            except SessionStoreUnavailable:
                continue  # logged already; the next attempt may come in time
            for ticket in self._kept & lost.keys():
                self._kept.discard(ticket)
                ticket.lost = lost[ticket]
                ticket.guard.reschedule(0)  # at once

    def _prolong(
        self, tickets: list[Ticket], connection: sqlite3.Connection
    ) -> dict[Ticket, AgentError]:
        """Renew the leases; the tickets that are not in the file any more, and why."""
        numbers = json.dumps([ticket.number for ticket in tickets])
        renewed = connection.execute(
            "UPDATE turns SET until = ? WHERE number IN (SELECT value FROM json_each(?))"
            " RETURNING number",
            (time.time() + self._lease, numbers),
        )
        there = {number for (number,) in renewed}
        return {t: why_lost(connection, t) for t in tickets if t.number not in there}


def ahead_of(connection: sqlite3.Connection, ticket: Ticket) -> list[tuple[int, float]]:
    """Number and lease of the tickets that come before this one."""
    return connection.execute(
        "SELECT number, until FROM turns WHERE session = ? AND number < ?",
        (ticket.session, ticket.number),
    ).fetchall()


def why_lost(connection: sqlite3.Connection, ticket: Ticket) -> AgentError:
    session = connection.execute("SELECT 1 FROM sessions WHERE number = ?", (ticket.session,))
    if session.fetchone() is None:
        return SessionNotFound("The session was deleted.")
    return Overloaded("This turn was stopped for too long and lost its place.", retry_after=1)
