"""One SQLite file that all workers share: a thread for each worker, short transactions, no waiting.

Each transaction is one function that runs on the thread from BEGIN to COMMIT. So a task that is
cancelled cannot leave one open, which would lock every other worker out, and none is open while
a turn waits for its place or for the model.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from shared.errors import AgentError

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the tables below; a file with another one is refused, not guessed at."""

TABLES = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    created INTEGER NOT NULL,                  -- times are microseconds since 1970
    active INTEGER NOT NULL,
    activity INTEGER NOT NULL,                 -- orders the owner's sessions, newest highest
    proven INTEGER NOT NULL DEFAULT 0          -- whether a turn of it has ever gone well
);
CREATE INDEX sessions_of_owner ON sessions (owner, activity, proven);
CREATE INDEX sessions_by_age ON sessions (active);
CREATE INDEX sessions_unproven ON sessions (number) WHERE NOT proven;

CREATE TABLE turns (                           -- who holds a session, and who waits for it
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order; never used twice
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    until REAL NOT NULL                        -- when its lease ends, in seconds since 1970
);
CREATE INDEX turns_of_session ON turns (session, number);

CREATE TABLE conversations (                   -- the latest checkpoint, without its messages
    session INTEGER PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    id TEXT NOT NULL,
    rewrites INTEGER NOT NULL,                 -- how often messages changed other than by growing
    kind TEXT NOT NULL,
    value BLOB NOT NULL
);
CREATE TABLE messages (
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (session, position)
) WITHOUT ROWID;

CREATE TABLE revoked (                         -- tokens that were logged out before they expired
    jti TEXT PRIMARY KEY,
    until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX revoked_by_age ON revoked (until);
"""

Result = TypeVar("Result")


class SessionStoreUnavailable(AgentError):
    """The sessions' file cannot be read or written: locked for too long, full, damaged, gone."""

    status = 503
    code = "session_store_unavailable"
    error = "The sessions cannot be reached at the moment; try again shortly."


class Database:
    """Opens the file when it is first needed. `patience`: seconds to wait for other writers."""

    def __init__(self, path: Path, *, patience: float = 5.0) -> None:
        self.path = path
        self._patience = patience
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sessions")
        self._connection: sqlite3.Connection | None = None  # touched on the thread alone

    def read(self, work: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """Queue a transaction that sees one state of the file. Raises as `write` does."""
        return self._queue("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """Queue a transaction: it starts after those queued before, and runs to its end, whether
        or not anybody waits for it. Raises SessionStoreUnavailable."""
        return self._queue("BEGIN IMMEDIATE", work)

    async def close(self) -> None:
        """Wait for what is queued, then close the file. It can be opened again."""
        await asyncio.wrap_future(self._thread.submit(self._disconnect))

    def _queue(
        self, begin: str, work: Callable[[sqlite3.Connection], Result]
    ) -> asyncio.Future[Result]:
        queued = self._thread.submit(self._transact, time.monotonic(), begin, work)
        result = asyncio.shield(asyncio.wrap_future(queued))
        result.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody has to ask
        return result

    def _transact(
        self, queued_at: float, begin: str, work: Callable[[sqlite3.Connection], Result]
    ) -> Result:
        try:
            connection = self._connection or self._connect()
            # The time in the queue counts: nobody waits for all who wait before, one by one.
            left = max(0.0, self._patience - (time.monotonic() - queued_at))
            connection.execute(f"PRAGMA busy_timeout = {round(left, 1) * 1000:.0f}")
            with connection:  # ends in COMMIT, or in ROLLBACK if anything is raised
                connection.execute(begin)
                return work(connection)
        except (sqlite3.Error, OSError) as exc:
            if isinstance(exc, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise  # a bug of ours
            logger.error("The session store %s cannot be used: %s", self.path, exc)
            raise SessionStoreUnavailable(retry_after=1) from exc

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)  # what people said to the agent is for its owner alone
        connection = sqlite3.connect(
            self.path, timeout=self._patience, isolation_level=None, cached_statements=64
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before anything is in the file
        write_ahead(connection, time.monotonic() + self._patience)
        # Safe for a killed process; after a power cut the last commits may be missing, no more.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"its tables are version {version}, not {VERSION}")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def write_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    """Switch to WAL; while another worker does the same SQLite refuses without waiting."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
