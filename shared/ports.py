"""What the service needs from the outside, said from the caller's side: where sessions live."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class Session:
    """One conversation's record; what was said is in the checkpointer, nowhere else."""

    id: str
    created_at: datetime
    last_activity: datetime


@dataclass(frozen=True)
class SessionPage:
    ids: list[str]
    count: int
    """All sessions, on this page or not."""
    next_cursor: str | None


class SessionStore(Protocol):
    """Keeps the sessions, and lets one turn at a time into each."""

    def new_id(self) -> str:
        """An id for a session that is to be made by its first turn."""

    def turn(self, session_id: str, *, wait: float) -> AbstractAsyncContextManager[Session]:
        """Hold the session's turn, after all that asked for it earlier; makes the session if new.

        A new one is forgotten again if the block fails. Activity is noted at both ends. A waiter
        that is cancelled gives up its place. Raises SessionBusy after `wait` seconds.
        """

    async def get(self, session_id: str) -> Session:
        """Raises SessionNotFound."""

    async def delete(self, session_id: str) -> None:
        """Forget the session and its checkpoints. Raises SessionNotFound."""

    async def page(self, *, limit: int, cursor: str | None = None) -> SessionPage:
        """Newest activity first. `cursor` is a `next_cursor` of this store: 1 to 18 digits.

        A session that is used meanwhile moves to the first page, and no later page has it.
        """
