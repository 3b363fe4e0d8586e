"""Your part: who is next in a session, whichever replica took the turn, and for how long."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.errors import AgentError

from .database import Connection, Database


class Ticket:
    """A turn's place in the line of a session; its number is 0 until it has one."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.number = 0


class TurnOrder:
    """`lease`: seconds until a ticket that nobody renews is void.

    The methods that take a connection are steps of a transaction.
    """

    def __init__(self, database: Database, *, lease: float) -> None:
        self._database = database
        self._lease = lease

    async def draw(self, connection: Connection, ticket: Ticket) -> None:
        """Take the last place in the line."""
        raise NotImplementedError("TODO 4: give the ticket a number, and a row with a lease")

    async def hand_in(self, connection: Connection, ticket: Ticket) -> None:
        """Give the place up."""
        raise NotImplementedError("TODO 4: the turn is over, however it ended")

    async def check(self, connection: Connection, ticket: Ticket) -> None:
        """Raises, and so undoes the transaction, if the ticket is gone; keeps it until the end."""
        raise NotImplementedError("TODO 6: whose ticket is gone may not store what it has")

    async def come_first(self, ticket: Ticket, deadline: float) -> None:
        """Wait until the ticket holds its session. Raises SessionBusy at the loop's `deadline`."""
        raise NotImplementedError(
            "TODO 4: look at the line again and again, a connection each time"
        )

    @asynccontextmanager
    async def kept(self, ticket: Ticket) -> AsyncIterator[None]:
        """Renew the lease while the block lasts; should it be lost, end the block and say why."""
        raise NotImplementedError("TODO 5: renew, and notice when there is nothing to renew")
        yield


async def why_lost(connection: Connection, ticket: Ticket) -> AgentError:
    """SessionNotFound if the session was deleted, or else Overloaded: it took too long."""
    raise NotImplementedError("TODO 5: look whether the session is still there")
