"""A replica has one lease for all of its turns, and is told when one of somebody else's is over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg import AsyncConnection, OperationalError

from advanced.app.database import SessionStoreUnavailable
from shared.errors import AgentError, Overloaded, SessionBusy, SessionNotFound

from .database import Connection, Database, one


class Ticket:
    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.number = 0
        self.look = asyncio.Event()


class TurnOrder:
    def __init__(self, database: Database, *, lease: float) -> None:
        self._database = database
        self._lease = lease
        self._replica = 0
        self._waiting: set[Ticket] = set()
        self.abandoned: list[int] = []
        """Tickets that could not be handed in: while this replica lives, nobody removes them."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._listen())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def draw(self, connection: Connection, ticket: Ticket) -> None:
        if not await self._is_alive(connection):
            [self._replica] = await one(
                connection, "INSERT INTO replicas DEFAULT VALUES RETURNING id"
            )
        [ticket.number] = await one(
            connection,
            "INSERT INTO turns (session, replica) VALUES (%s, %s) RETURNING number",
            ticket.session_id,
            self._replica,
        )

    async def hand_in(self, connection: Connection, ticket: Ticket) -> None:
        await connection.execute("DELETE FROM turns WHERE number = %s", [ticket.number])

    async def check(self, connection: Connection, ticket: Ticket) -> None:
        query = "SELECT 1 FROM turns WHERE number = %s FOR UPDATE"
        if await one(connection, query, ticket.number) is None:
            raise await why_lost(connection, ticket)

    async def come_first(self, ticket: Ticket, deadline: float) -> None:
        clock = asyncio.get_running_loop().time
        self._waiting.add(ticket)
        try:
            while not await self._is_first(ticket):
                if (left := deadline - clock()) <= 0:
                    raise SessionBusy(retry_after=1)
                with suppress(TimeoutError):
                    await asyncio.wait_for(ticket.look.wait(), min(left, self._lease / 8))
                ticket.look.clear()
        finally:
            self._waiting.discard(ticket)

    @asynccontextmanager
    async def kept(self, ticket: Ticket) -> AsyncIterator[None]:
        lost: list[AgentError] = []

        async def watch(turn: asyncio.Task[None]) -> None:
            async def look(connection: Connection) -> AgentError | None:
                query = "SELECT 1 FROM turns WHERE number = %s"
                if await one(connection, query, ticket.number) is None:
                    return await why_lost(connection, ticket)
                return None

            while not lost:
                await asyncio.sleep(self._lease / 8)
                with suppress(SessionStoreUnavailable):
                    if (why := await self._database.transact(look)) is not None:
                        lost.append(why)
            turn.cancel()

        turn = asyncio.current_task()
        assert turn
        watching = asyncio.create_task(watch(turn))
        try:
            yield
        except asyncio.CancelledError:
            if lost and turn.uncancel() == 0:
                raise lost[0] from None
            raise
        finally:
            watching.cancel()

    async def _is_first(self, ticket: Ticket) -> bool:
        async def look(connection: Connection) -> bool:
            await connection.execute(
                "DELETE FROM replicas WHERE alive < clock_timestamp() - make_interval(secs => %s)",
                [self._lease],
            )
            query = "SELECT min(number) FROM turns WHERE session = %s"
            [lowest] = await one(connection, query, ticket.session_id)
            if lowest is None or lowest > ticket.number:
                raise await why_lost(connection, ticket)
            return bool(lowest == ticket.number)

        return await self._database.transact(look)

    async def _is_alive(self, connection: Connection) -> bool:
        beaten = await connection.execute(
            "UPDATE replicas SET alive = clock_timestamp() WHERE id = %s", [self._replica]
        )
        return beaten.rowcount == 1

    async def _beat(self) -> None:
        while True:
            with suppress(SessionStoreUnavailable):
                await self._database.transact(self._is_alive)
                await self._database.transact(self._hand_in_late)
            await asyncio.sleep(self._lease / 4)

    async def _hand_in_late(self, connection: Connection) -> None:
        await connection.execute("DELETE FROM turns WHERE number = ANY(%s)", [self.abandoned])

    async def _listen(self) -> None:
        while True:
            with suppress(OperationalError):
                url = self._database.url
                async with await AsyncConnection.connect(url, autocommit=True) as connection:
                    await connection.execute("LISTEN turns")
                    async for notice in connection.notifies():
                        for ticket in self._waiting:
                            if ticket.session_id == notice.payload:
                                ticket.look.set()
            await asyncio.sleep(0.2)


async def why_lost(connection: Connection, ticket: Ticket) -> AgentError:
    query = "SELECT 1 FROM sessions WHERE id = %s"
    if await one(connection, query, ticket.session_id) is None:
        return SessionNotFound("The session was deleted.")
    return Overloaded("This turn came too late.", retry_after=1)
