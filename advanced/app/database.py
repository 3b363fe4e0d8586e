"""One SQLite file that all workers share: a thread for each worker, short transactions, no waiting.

Each transaction is one function that runs on the thread from BEGIN to COMMIT. So a task that is
cancelled cannot leave one open, which would lock every other worker out, and none is open while
a turn waits for its place or for the model.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import quote

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
        self._jobs = SimpleQueue[Job | None]()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None  # touched on the thread alone
        self._busy_timeout = -1.0
        self._reader: sqlite3.Connection | None = None  # the loop's own

    def read(self, work: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """Queue a transaction that sees one state of the file. Raises as `write` does."""
        return self._queue("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """Queue a transaction: it starts after those queued before, and runs to its end, whether
        or not anybody waits for it. Raises SessionStoreUnavailable."""
        return self._queue("BEGIN IMMEDIATE", work)

    def look(self, query: str, *values: object) -> bool:
        """Whether the query has a row; for one page, which is in memory. Raises as `write` does.

        Not on the thread: there the same question costs 83 us of CPU time, here 2, and with
        write-ahead logging a reader waits for nobody.
        """
        try:
            if self._reader is None:
                where = f"file:{quote(str(self.path.absolute()))}?mode=ro"
                self._reader = sqlite3.connect(where, timeout=0, isolation_level=None, uri=True)
            return self._reader.execute(query, values).fetchone() is not None
        except sqlite3.Error as exc:
            logger.error("The session store %s cannot be read: %s", self.path, exc)
            raise SessionStoreUnavailable(retry_after=1) from exc

    async def close(self) -> None:
        """Wait for what is queued, then close the file. It can be opened again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def _queue(
        self, begin: str, work: Callable[[sqlite3.Connection], Result]
    ) -> asyncio.Future[Result]:
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        result.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody has to ask
        self._jobs.put(Job(begin, work, result))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sessions", daemon=True)
            self._thread.start()
        return result

    def _work(self) -> None:
        """The thread. Each job is done, though nobody may be left to hear of it."""
        while (job := self._jobs.get()) is not None:
            told: tuple[Any, BaseException | None]
            try:
                told = self._transact(job), None
            except BaseException as exc:  # noqa: BLE001 - it is raised where the result is awaited
                told = None, exc
            with suppress(RuntimeError):  # the loop has been closed
                job.result.get_loop().call_soon_threadsafe(tell, job.result, *told)
        self._disconnect()

    def _transact(self, job: "Job") -> Any:
        try:
            connection = self._connection or self._connect()
            # The time in the queue counts: nobody waits for all who wait before, one by one.
            left = round(max(0.0, self._patience - (time.monotonic() - job.queued_at)), 1)
            if left != self._busy_timeout:
                connection.execute(f"PRAGMA busy_timeout = {left * 1000:.0f}")
                self._busy_timeout = left
            with connection:  # ends in COMMIT, or in ROLLBACK if anything is raised
                connection.execute(job.begin)
                return job.work(connection)
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
        self._connection, self._busy_timeout = connection, -1.0
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


@dataclass(frozen=True, slots=True)
class Job:
    """A transaction that waits for the thread. An executor's futures cost as much as the work."""

    begin: str
    work: Callable[[sqlite3.Connection], Any]
    result: asyncio.Future[Any]
    queued_at: float = field(default_factory=time.monotonic)


def tell(result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if result.done():
        return  # who asked has gone
    if error is None:
        result.set_result(value)
    else:
        result.set_exception(error)


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
