"""The conversations: LangGraph's checkpointer on the sessions' file, each message stored once.

AsyncSqliteSaver of `langgraph-checkpoint-sqlite` writes the whole conversation anew for each
checkpoint and keeps them all. Here a conversation has one checkpoint, a turn adds its own messages
to a table, and what this worker has read it does not read again.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from .database import Database

MESSAGES = "messages"
"""The channel that grows from turn to turn (`AgentState` in `shared/state.py`)."""

REMEMBERED = 16 * 2**20
"""Bytes of conversations, roughly, that a worker keeps as live objects."""

OBJECT = 2048
"""Bytes that a message takes beyond its serialised ones, roughly."""

Fence = Callable[[sqlite3.Connection], int]
"""A step of a transaction: the number of the session, or an error if its turn was lost."""


@dataclass(frozen=True)
class Conversation:
    """What is known of a conversation, as it was committed."""

    session: int
    id: str
    """The checkpoint's."""

    rewrites: int
    messages: tuple[Any, ...] = ()
    """Live objects: nobody changes a message, they are replaced by others."""

    size: int = 0


class SqliteCheckpoints(BaseCheckpointSaver[int]):
    """The last checkpoint of every conversation. Only a session's turn may write one.

    `hold(thread_id)` is asked in the task that writes, and the fence it returns inside the
    transaction: a turn that has lost its session stores nothing.
    """

    def __init__(
        self,
        database: Database,
        hold: Callable[[str], Fence],
        *,
        serde: SerializerProtocol | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        # None allows LangGraph's list of safe types alone, as LANGGRAPH_STRICT_MSGPACK=true does:
        # else whoever can write to the file chooses what is imported when it is read.
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=None))
        self._database = database
        self._hold = hold
        self._known = OrderedDict[str, Conversation]()  # longest unused first
        self._room = remembered

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        thread_id = config["configurable"]["thread_id"]
        if is_subgraph(config):
            return None
        known = self._known.get(thread_id)
        found = await self._database.read(partial(self._load, thread_id, known))
        if found is None:
            self._forget(thread_id)
            return None
        conversation, stored = found
        self._remember(thread_id, conversation)
        if get_checkpoint_id(config) not in (None, conversation.id):
            return None  # an older one; they are not kept
        checkpoint: Checkpoint = stored["checkpoint"]
        if stored["messages"]:
            checkpoint["channel_values"][MESSAGES] = list(conversation.messages)
        return CheckpointTuple(saved_as(thread_id, conversation.id), checkpoint, stored["metadata"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        thread_id = config["configurable"]["thread_id"]
        if is_subgraph(config):  # one that failed is asked again, never resumed
            return config
        values = dict(checkpoint["channel_values"])
        messages = values.pop(MESSAGES, None)
        kind, value = self.serde.dumps_typed(
            {
                "checkpoint": {**checkpoint, "channel_values": values},
                "metadata": metadata,
                "messages": messages is not None,
            }
        )
        known = self._known.get(thread_id)
        saved = await self._database.write(
            partial(
                self._save,
                self._hold(thread_id),
                known,
                (checkpoint["id"], kind, value),
                tuple(messages or ()),
            )
        )
        self._remember(thread_id, saved)
        return saved_as(thread_id, saved.id)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Nothing is kept: a turn that failed is asked again, never resumed."""

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget what was said. Deleting a session does so by itself."""
        await self._database.write(partial(delete_conversation, thread_id))
        self._forget(thread_id)

    def _load(
        self, thread_id: str, known: Conversation | None, connection: sqlite3.Connection
    ) -> tuple[Conversation, dict[str, Any]] | None:
        """The conversation, of which only what is not known is read, and the rest as stored."""
        row = connection.execute(
            "SELECT session, conversations.id, rewrites, kind, value"
            " FROM sessions JOIN conversations ON session = number WHERE sessions.id = ?",
            (thread_id,),
        ).fetchone()
        if row is None:
            return None
        session, checkpoint_id, rewrites, *stored = row
        if known is None or (known.session, known.rewrites) != (session, rewrites):
            known = Conversation(session, checkpoint_id, rewrites)
        unknown = connection.execute(
            "SELECT kind, value FROM messages WHERE session = ? AND position >= ?"
            " ORDER BY position",
            (session, len(known.messages)),
        ).fetchall()
        messages = [self.serde.loads_typed(blob) for blob in unknown]
        conversation = Conversation(
            session,
            checkpoint_id,
            rewrites,
            (*known.messages, *messages),
            known.size + size_of(unknown),
        )
        return conversation, self.serde.loads_typed((stored[0], stored[1]))

    def _save(
        self,
        fence: Fence,
        known: Conversation | None,
        stored: tuple[str, str, bytes],
        messages: tuple[Any, ...],
        connection: sqlite3.Connection,
    ) -> Conversation:
        """Store the checkpoint, and of its messages those that are not in the file yet."""
        session = fence(connection)
        before = connection.execute(
            "SELECT id, rewrites FROM conversations WHERE session = ?", (session,)
        ).fetchone()
        last_id, rewrites = before or ("", 0)
        if known is None or (known.session, known.id) != (session, last_id):
            known = Conversation(session, "", rewrites)
        same = common(known.messages, messages)
        if (before and not known.id) or same < len(known.messages):
            rewrites += 1
            known, same = Conversation(session, "", rewrites), 0
            connection.execute("DELETE FROM messages WHERE session = ?", (session,))
        new = [self.serde.dumps_typed(message) for message in messages[same:]]
        connection.executemany(
            "INSERT INTO messages VALUES (?, ?, ?, ?)",
            [(session, position, *blob) for position, blob in enumerate(new, same)],
        )
        checkpoint_id, kind, value = stored
        connection.execute(
            "INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?, ?)",
            (session, checkpoint_id, rewrites, kind, value),
        )
        return Conversation(session, checkpoint_id, rewrites, messages, known.size + size_of(new))

    def _remember(self, thread_id: str, conversation: Conversation) -> None:
        self._forget(thread_id)
        self._known[thread_id] = conversation
        self._room -= conversation.size
        while self._room < 0 and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, thread_id: str) -> None:
        if known := self._known.pop(thread_id, None):
            self._room += known.size


def saved_as(thread_id: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": "",
            "checkpoint_id": checkpoint_id,
        }
    }


def is_subgraph(config: RunnableConfig) -> bool:
    return bool(config["configurable"].get("checkpoint_ns"))


def common(before: Sequence[Any], after: Sequence[Any]) -> int:
    """How many messages at the beginning are the same."""
    pairs = zip(before, after, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1] or pair[0] == pair[1], pairs))


def size_of(blobs: Iterable[tuple[str, bytes]]) -> int:
    return sum(len(value) + OBJECT for _, value in blobs)


def delete_conversation(thread_id: str, connection: sqlite3.Connection) -> None:
    session = connection.execute("SELECT number FROM sessions WHERE id = ?", (thread_id,))
    if number := session.fetchone():
        connection.execute("DELETE FROM messages WHERE session = ?", number)
        connection.execute("DELETE FROM conversations WHERE session = ?", number)
