"""Your part: the sessions of all users in PostgreSQL, and what was said in them.

A `SessionStore` (`shared/ports.py`) is one user's view: `sessions.of(owner)`. `app.py` needs
`PostgresSessions` and its arguments; how it works behind that is yours to change.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from weakref import WeakValueDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from advanced.app.sessions import new_id
from shared.errors import SessionNotFound
from shared.ports import Session, SessionPage

from .database import Connection, Database
from .turn_order import Ticket, TurnOrder

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
        await self.database.open()
        self.checkpoints = PostgresCheckpoints(self.database, self.order)
        # TODO 7: begin to sweep: what has expired is deleted, its checkpoints included
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()

    def of(self, owner: str) -> "OwnedSessions":
        """The sessions of one user. Costs nothing: make one for each request."""
        return OwnedSessions(self, owner)

    async def answers(self) -> bool:
        """For a probe. Raises SessionStoreUnavailable."""
        raise NotImplementedError("TODO 2: ask the database anything")

    async def active(self) -> int:
        """How many sessions there are, of all users."""
        raise NotImplementedError("TODO 2: count the sessions that have not expired")

    def line(self, session_id: str) -> asyncio.Lock:
        """Of this replica's turns: PostgreSQL sees them in the order in which they came."""
        return self._lines.setdefault(session_id, asyncio.Lock())


class OwnedSessions:
    """A SessionStore of one owner's sessions; those of others do not exist for it."""

    def __init__(self, sessions: PostgresSessions, owner: str) -> None:
        self._sessions = sessions
        self._transact = sessions.database.transact
        self._order = sessions.order
        self._owner = owner

    def new_id(self) -> str:
        """An id for a session that is to be made by its first turn. It is a `NewId`; an id that a
        client has sent is not."""
        return new_id()

    @asynccontextmanager
    async def turn(self, session_id: str, *, wait: float) -> AsyncIterator[Session]:
        """As the port says. Raises SessionNotFound for an id that is neither new nor the owner's.

        The block ends with SessionNotFound soon after the session was deleted by another replica,
        and with Overloaded if this one was stopped for so long that another turn came first.
        """
        raise NotImplementedError("TODO 2: after TODO 1, make or find the session; TODO 4: in line")
        yield Session(session_id, datetime.now(UTC), datetime.now(UTC))

    async def get(self, session_id: str) -> Session:
        """Raises SessionNotFound."""
        raise NotImplementedError("TODO 2: find it, if it is this owner's and has not expired")

    async def delete(self, session_id: str) -> None:
        """Forget the session and its checkpoints. Raises SessionNotFound."""
        raise NotImplementedError("TODO 2: delete it, and what was said in it")

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        raise NotImplementedError("TODO 2: this owner's sessions, newest activity first")


class PostgresCheckpoints(BaseCheckpointSaver[str]):
    """LangGraph's AsyncPostgresSaver, as this service needs it. Only a session's turn may write a
    checkpoint, and only while it holds the session."""

    def __init__(self, database: Database, order: TurnOrder) -> None:
        super().__init__()
        self._database = database
        self._order = order

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        raise NotImplementedError("TODO 3: what was said, from PostgreSQL")

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        raise NotImplementedError("TODO 3: keep it in PostgreSQL, whatever characters are in it")

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Nothing is kept: a turn that failed is asked again, never resumed."""


async def forget(connection: Connection, query: str, *values: object) -> int:
    """Delete sessions, and their checkpoints, whose tables know of no session. How many it were.

    `query` is a DELETE that returns their ids.
    """
    raise NotImplementedError("TODO 2: delete the sessions; TODO 3: and their checkpoints")


def as_session(session_id: str, row: tuple[datetime, datetime] | None) -> Session:
    """Unknown, foreign and expired are the same: no row. Raises SessionNotFound."""
    if row is None:
        raise SessionNotFound
    created, active = row
    return Session(str(session_id), created.astimezone(UTC), active.astimezone(UTC))
