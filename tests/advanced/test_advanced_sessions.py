"""Sessions in one SQLite file: the contract, several workers, dead workers, owners and expiry."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from advanced.app.checkpoints import SqliteCheckpoints
from advanced.app.database import SessionStoreUnavailable
from advanced.app.sessions import NewId, OwnedSessions, SqliteSessions, new_id
from advanced.app.tickets import LEASE, LONGEST_PAUSE
from shared.agent_service import AgentService, thread
from shared.errors import (
    AgentError,
    ConfigurationError,
    ModelError,
    Overloaded,
    SessionBusy,
    SessionNotFound,
)
from shared.graph import new_turn
from shared.llm import open_llm
from shared.offline_model import OfflineModel, Scenario
from shared.ports import Session, SessionStore
from shared.state import TurnContext
from tests.advanced import session_worker
from tests.advanced.session_worker import OWNER, add, conversation
from tests.session_store_contract import SessionStoreContract, visit

PATIENT = 20.0
"""Seconds after which something that ought to happen is taken not to; never waited out."""

SHORT = 1.0
"""A lease that a test can wait for, and that a busy machine can still keep."""


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sessions.db"


@pytest.fixture
async def sessions(file: Path) -> AsyncIterator[SqliteSessions]:
    async with SqliteSessions(file) as sessions:
        yield sessions


@pytest.fixture
async def session_id(sessions: SqliteSessions) -> str:
    """A session of OWNER's, after its first turn, which stored "hello"."""
    session_id = new_id()
    await turn(sessions, session_id, "hello")
    return str(session_id)


async def turn(
    sessions: SqliteSessions, session_id: str, text: str, owner: str = OWNER, wait: float = PATIENT
) -> None:
    async with sessions.of(owner).turn(session_id, wait=wait):
        await add(sessions, session_id, text)


def said(*texts: str) -> list[str]:
    """The conversation after turns that stored these."""
    return [line for text in texts for line in (text, f"{text}!")]


def query(file: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process or task is about to do."""
    async with asyncio.timeout(PATIENT):
        while not condition():  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(0.002)


# --- the contract ------------------------------------------------------------------------------


class AnyId(OwnedSessions):
    """The contract chooses its ids; here every one counts as made by the server."""

    def turn(self, session_id: str, *, wait: float) -> Any:
        return super().turn(NewId(session_id), wait=wait)


class TestSqliteSessions(SessionStoreContract):
    @pytest.fixture(autouse=True)
    async def _folder(self, tmp_path: Path) -> AsyncIterator[None]:
        async with AsyncExitStack() as self.opened:
            self.file = tmp_path / "sessions.db"
            yield

    def make(self, limit: int, clock: Callable[[], datetime]) -> SessionStore:
        sessions = SqliteSessions(self.file, limit=limit, clock=clock)
        self.opened.push_async_callback(sessions.close)
        return AnyId(sessions, OWNER)


# --- several workers ---------------------------------------------------------------------------


class Worker:
    """A process that obeys `session_worker.py`'s commands."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def tell(self, *words: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(words).encode() + b"\n")

    async def hear(self) -> str:
        assert self.process.stdout
        async with asyncio.timeout(PATIENT):
            return (await self.process.stdout.readline()).decode().strip()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def killed(self) -> None:
        self.process.kill()
        await self.process.wait()


Start = Callable[[float], Awaitable[Worker]]


@asynccontextmanager
async def worker_on(file: Path, lease: float) -> AsyncIterator[Worker]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, session_worker.__file__, str(file), str(lease)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    worker = Worker(process)
    try:
        assert await worker.hear() == "ready"
        yield worker
    finally:
        if process.returncode is None:
            await worker.killed()


@pytest.fixture
async def start(file: Path) -> AsyncIterator[Start]:
    """`worker = await start(lease)`; killed at the end."""
    async with AsyncExitStack() as stack:
        yield lambda lease: stack.enter_async_context(worker_on(file, lease))


def tickets(file: Path) -> int:
    return int(query(file, "SELECT count(*) FROM turns")[0][0])


async def test_turns_of_three_workers_come_in_the_order_in_which_they_asked(
    sessions: SqliteSessions, file: Path, start: Start, session_id: str
) -> None:
    """20 turns that three processes accept in a known order are stored in that order, none lost."""
    workers = [await start(LEASE), await start(LEASE)]
    mine: list[asyncio.Task[None]] = []
    async with sessions.of(OWNER).turn(session_id, wait=1):
        for number in range(20):
            if number % 3 == 2:
                mine.append(asyncio.create_task(turn(sessions, session_id, str(number))))
            else:
                workers[number % 3].tell("ask", session_id, str(number))
            await until(lambda number=number: tickets(file) == number + 2)  # type: ignore[misc]
    await asyncio.gather(*mine)
    await until(lambda: tickets(file) == 0)
    assert await conversation(sessions, session_id) == said("hello", *map(str, range(20)))


async def test_nothing_is_lost_in_a_crowd(
    sessions: SqliteSessions, start: Start, session_id: str
) -> None:
    """Three processes at once, 10 turns each and as fast as they can: 30 turns are stored whole."""
    workers = await asyncio.gather(*[start(LEASE) for _ in range(3)])
    texts = [[f"{name}{number}" for number in range(10)] for name in "abc"]
    for worker, its in zip(workers, texts, strict=True):
        for text in its:
            worker.tell("ask", session_id, text)
    for worker, its in zip(workers, texts, strict=True):
        assert [await worker.hear() for _ in its] == [f"stored {text}" for text in its]
    lines = await conversation(sessions, session_id)
    assert lines == said(*lines[::2])
    assert sorted(lines[::2]) == sorted(["hello", *texts[0], *texts[1], *texts[2]])


async def test_workers_make_the_file_together(file: Path) -> None:
    """Many that open a file which is not there yet do not get into each other's way."""
    workers = [SqliteSessions(file) for _ in range(20)]
    await asyncio.gather(*[worker.check() for worker in workers])
    assert query(file, "PRAGMA journal_mode") == [("wal",)]
    await asyncio.gather(*[worker.close() for worker in workers])


async def test_a_worker_waits_for_one_that_makes_the_file(file: Path) -> None:
    """SQLite refuses to switch to WAL, without waiting, while another writes: it is tried again."""
    file.parent.mkdir()
    sessions = SqliteSessions(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE something (x)")
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(sessions.check())
        _, waiting = await asyncio.wait([opening], timeout=0.1)
        assert waiting
        other.execute("ROLLBACK")
        await opening
    await sessions.close()


def test_a_dead_worker_blocks_a_session_for_ten_seconds_at_most() -> None:
    """The lease, and the longest pause between two looks at it, are below the promise."""
    assert LEASE + LONGEST_PAUSE < 10


async def test_a_killed_holder_lets_the_next_one_in(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """kill -9 in the middle of a turn: the next turn starts when the lease is over, on what was
    stored before."""
    holder, other = await start(SHORT), await start(SHORT)
    holder.tell("hold", session_id, "never")
    assert await holder.hear() == "holding never"
    other.tell("ask", session_id, "next")
    await until(lambda: tickets(file) == 2)
    await holder.killed()
    assert await other.hear() == "stored next"
    assert await conversation(sessions, session_id) == said("hello", "next")


async def test_a_running_turn_outlasts_its_lease(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """While its worker lives a turn is not overtaken, however long it takes."""
    holder, other = await start(SHORT), await start(SHORT)
    holder.tell("hold", session_id, "slow")
    assert await holder.hear() == "holding slow"
    (first_lease,) = query(file, "SELECT until FROM turns")[0]
    other.tell("ask", session_id, "next")
    await until(lambda: query(file, "SELECT min(until) FROM turns")[0][0] > first_lease + SHORT)
    holder.tell("release")
    assert await holder.hear() == "stored slow"
    assert await other.hear() == "stored next"
    assert await conversation(sessions, session_id) == said("hello", "slow", "next")


async def test_a_killed_waiter_is_skipped(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """A worker that dies in line blocks nobody behind it for longer than its lease."""
    holder, dead, behind = [await start(SHORT) for _ in range(3)]
    holder.tell("hold", session_id, "first")
    assert await holder.hear() == "holding first"
    dead.tell("ask", session_id, "never")
    await until(lambda: tickets(file) == 2)
    behind.tell("ask", session_id, "behind")
    await until(lambda: tickets(file) == 3)
    await dead.killed()
    holder.tell("release")
    assert await holder.hear() == "stored first"
    assert await behind.hear() == "stored behind"
    assert await conversation(sessions, session_id) == said("hello", "first", "behind")


async def test_a_stopped_holder_stores_nothing_when_it_goes_on(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """SIGSTOP beyond the lease, then SIGCONT: the overtaken turn fails by name and leaves no trace;
    its worker goes on."""
    holder, other = await start(SHORT), await start(SHORT)
    holder.tell("hold", session_id, "late")
    assert await holder.hear() == "holding late"
    holder.send(signal.SIGSTOP)
    other.tell("ask", session_id, "next")
    assert await other.hear() == "stored next"
    holder.tell("release")
    holder.send(signal.SIGCONT)
    assert await holder.hear() == "failed late overloaded"
    assert await conversation(sessions, session_id) == said("hello", "next")
    holder.tell("ask", session_id, "again")
    assert await holder.hear() == "stored again"
    assert await conversation(sessions, session_id) == said("hello", "next", "again")


async def test_a_turn_that_was_overtaken_cannot_store(
    sessions: SqliteSessions, file: Path, session_id: str
) -> None:
    """The checkpoint is refused by the transaction that would store it, before anybody noticed."""

    async def late() -> None:
        async with sessions.of(OWNER).turn(session_id, wait=1):
            query(file, "DELETE FROM turns")
            query(file, "INSERT INTO turns (session, until) SELECT number, 9e9 FROM sessions")
            await add(sessions, session_id, "late")

    with pytest.raises(Overloaded):
        await late()
    assert await conversation(sessions, session_id) == said("hello")


async def test_only_a_turn_may_store(sessions: SqliteSessions, session_id: str) -> None:
    """Without the session's turn no checkpoint is written, and another session's is not enough."""
    with pytest.raises(RuntimeError, match="turn"):
        await add(sessions, session_id, "outside")
    with pytest.raises(RuntimeError, match="turn"):
        async with sessions.of(OWNER).turn(new_id(), wait=1):
            await add(sessions, session_id, "outside")
    assert await conversation(sessions, session_id) == said("hello")


async def test_kill_at_any_moment(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """Whenever a busy worker is killed, what it reported is stored, whole, and the file sound."""
    for moment, name in enumerate("abcd"):
        worker = await start(0.2)
        worker.tell("chatter", session_id, name)
        reported = [await worker.hear() for _ in range(5)]
        await asyncio.sleep(0.0007 * moment)  # elsewhere in a turn each time
        await worker.killed()
        lines = await conversation(sessions, session_id)
        assert lines == said(*lines[::2])
        stored = [f"stored {text}" for text in lines[::2] if text.startswith(name)]
        assert stored[:5] == reported
        assert query(file, "PRAGMA integrity_check") == [("ok",)]
    await turn(sessions, session_id, "last")


async def test_deleting_ends_a_turn_in_another_worker(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """DELETE ends the session's turns in every worker, and none of them brings anything back."""
    worker = await start(0.8)
    worker.tell("hold", session_id, "gone")
    assert await worker.hear() == "holding gone"
    worker.tell("ask", session_id, "waiting")
    await until(lambda: tickets(file) == 2)
    await sessions.of(OWNER).delete(session_id)
    ends = {await worker.hear(), await worker.hear()}
    assert ends == {"failed gone session_not_found", "failed waiting session_not_found"}
    for table in ("sessions", "turns", "conversations", "messages"):
        assert query(file, f"SELECT * FROM {table}") == []  # noqa: S608 - the names above


async def test_a_lease_from_another_clock_does_not_last(
    sessions: SqliteSessions, file: Path, session_id: str
) -> None:
    """After the machine's clock was put back by a year, a dead worker's ticket is still void."""
    in_a_year = time.time() + 3e7
    query(file, f"INSERT INTO turns (session, until) SELECT number, {in_a_year} FROM sessions")  # noqa: S608
    await turn(sessions, session_id, "next", wait=1)


async def test_no_transaction_while_turns_run_and_wait(
    sessions: SqliteSessions, file: Path, session_id: str
) -> None:
    """Others may write to the file at any time while a turn runs and another one waits."""
    async with sessions.of(OWNER).turn(session_id, wait=1):
        waiter = asyncio.create_task(turn(sessions, session_id, "waiter"))
        await until(lambda: tickets(file) == 2)
        with closing(sqlite3.connect(file, isolation_level=None, timeout=1)) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("ROLLBACK")
    await waiter


async def test_a_waiter_gives_up_in_another_worker(
    file: Path, start: Start, sessions: SqliteSessions, session_id: str
) -> None:
    """A turn held elsewhere: `wait` seconds, then SessionBusy, and the ticket is gone."""
    holder = await start(LEASE)
    holder.tell("hold", session_id, "held")
    assert await holder.hear() == "holding held"
    with pytest.raises(SessionBusy):
        await turn(sessions, session_id, "no", wait=0.05)
    assert tickets(file) == 1
    leaver = asyncio.create_task(turn(sessions, session_id, "leaver"))
    await until(lambda: tickets(file) == 2)
    leaver.cancel()
    await until(lambda: tickets(file) == 1)


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_turn_leaves_no_ticket(
    sessions: SqliteSessions, file: Path, session_id: str, steps: int
) -> None:
    """Cancelled at any point of getting in, a turn is out of the line, and the next one gets in."""
    task = asyncio.create_task(turn(sessions, session_id, "cancelled"))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await turn(sessions, session_id, "next")
    await until(lambda: tickets(file) == 0)
    assert (await conversation(sessions, session_id))[-2:] == said("next")


async def test_a_turn_that_is_cancelled_while_it_leaves_leaves(
    sessions: SqliteSessions, file: Path, session_id: str
) -> None:
    """What is queued for the file is done, even if the file is busy and nobody waits any more."""
    leaving, go_on = asyncio.Event(), threading.Event()

    async def short() -> None:
        async with sessions.of(OWNER).turn(session_id, wait=1):
            _ = sessions.database.read(lambda _: go_on.wait(PATIENT))
            leaving.set()

    task = asyncio.create_task(short())
    await leaving.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert tickets(file) == 1
    go_on.set()
    await until(lambda: tickets(file) == 0)


# --- owners, ids, expiry -----------------------------------------------------------------------


async def refusal(awaitable: Awaitable[object]) -> tuple[type, str | None]:
    with pytest.raises(AgentError) as caught:
        await awaitable
    return type(caught.value), caught.value.detail


async def test_unknown_and_foreign_are_the_same(sessions: SqliteSessions, session_id: str) -> None:
    """Another user's session, an unknown one and a deleted one: one and the same refusal, for
    reading, deleting and continuing, even while a turn of it runs."""
    deleted = new_id()
    await turn(sessions, deleted, "x", owner="bob")
    await sessions.of("bob").delete(deleted)
    bobs = sessions.of("bob")
    async with sessions.of(OWNER).turn(session_id, wait=1):
        refusals = {
            await refusal(attempt)
            for unknown in (session_id, "unknown", str(deleted), str(new_id()))
            for attempt in (
                bobs.get(unknown),
                bobs.delete(unknown),
                turn(sessions, unknown, "mine", owner="bob", wait=0.5),
            )
        }
    assert refusals == {(SessionNotFound, None)}
    assert (await bobs.page(limit=10)).ids == []
    assert (await sessions.of(OWNER).get(session_id)).id == session_id
    assert await conversation(sessions, session_id) == said("hello")


async def test_a_new_id_does_not_open_what_is_there(
    sessions: SqliteSessions, session_id: str
) -> None:
    """Even an id that counts as new leads nobody into another user's session."""
    assert await refusal(turn(sessions, NewId(session_id), "x", owner="bob")) == (
        SessionNotFound,
        None,
    )


async def test_lists_and_counts_are_the_owners(sessions: SqliteSessions) -> None:
    """Each user sees their own sessions; the number for the metrics is that of all."""
    ids = [new_id() for _ in range(3)]
    for session_id in ids:
        await visit(sessions.of("alice"), session_id)
    await visit(sessions.of("bob"), new_id())
    page = await sessions.of("alice").page(limit=2)
    assert (page.ids, page.count) == ([ids[2], ids[1]], 3)
    assert (await sessions.of("bob").page(limit=10)).count == 1
    assert await sessions.active() == 4


async def test_ids_cannot_be_guessed() -> None:
    """Ids are of the contract's alphabet, and have 128 random bits: 22 characters, all differ."""
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {len(session_id) for session_id in ids} == {22}
    for position in range(21):  # the last one carries 2 bits only
        assert len({session_id[position] for session_id in ids}) == 64


async def test_sessions_expire(file: Path) -> None:
    """A session without activity for `ttl` is gone for everyone, and a sweep takes its words."""
    clock = Clock()
    async with SqliteSessions(file, ttl=timedelta(hours=1), clock=clock) as sessions:
        old, used = new_id(), new_id()
        await turn(sessions, old, "old")
        await turn(sessions, used, "used")
        clock.now += timedelta(minutes=50)
        await turn(sessions, str(used), "again")
        clock.now += timedelta(minutes=10)
        mine = sessions.of(OWNER)
        assert await refusal(mine.get(old)) == (SessionNotFound, None)
        assert await refusal(turn(sessions, str(old), "late")) == (SessionNotFound, None)
        assert await refusal(mine.delete(old)) == (SessionNotFound, None)
        page = await mine.page(limit=10)
        assert (page.ids, page.count, await sessions.active()) == ([used], 1, 1)
        assert query(file, "SELECT count(*) FROM sessions") == [(2,)]
        await sessions.sweep()
        assert query(file, "SELECT id FROM sessions") == [(used,)]
        assert query(file, "SELECT count(*) FROM messages") == [(4,)]
        assert query(file, "SELECT count(*) FROM conversations") == [(1,)]


async def test_a_session_with_a_turn_is_not_swept(file: Path) -> None:
    """A turn that runs longer than the time to live keeps its session, and its words."""
    clock = Clock()
    async with SqliteSessions(file, ttl=timedelta(seconds=1), clock=clock) as sessions:
        session_id = new_id()
        async with sessions.of(OWNER).turn(session_id, wait=1):
            clock.now += timedelta(minutes=1)
            await sessions.sweep()
            await add(sessions, session_id, "slow")
        assert (await sessions.of(OWNER).get(session_id)).id == session_id
        assert await conversation(sessions, session_id) == said("slow")


async def test_what_a_killed_worker_began_is_swept(sessions: SqliteSessions, file: Path) -> None:
    """A session whose first turn died with its worker is forgotten."""
    query(file, "INSERT INTO sessions VALUES (1, 'x', 'alice', 1, 9e15, 1, 0)")
    query(file, "INSERT INTO turns VALUES (1, 1, 5)")
    await sessions.sweep()
    assert query(file, "SELECT * FROM sessions") == []
    assert query(file, "SELECT * FROM turns") == []


async def test_more_sessions_expire_than_one_transaction_deletes(file: Path) -> None:
    """A sweep goes on until all is gone."""
    clock = Clock()
    async with SqliteSessions(file, clock=clock) as sessions:
        for _ in range(250):
            await visit(sessions.of(OWNER), new_id())
        clock.now += timedelta(days=30)
        await sessions.sweep()
        assert query(file, "SELECT count(*) FROM sessions") == [(0,)]


async def test_a_revoked_token_is_revoked_everywhere(file: Path) -> None:
    """Every worker knows, a restart forgets nothing, and after its end the token takes no room."""
    clock = Clock()
    async with SqliteSessions(file, clock=clock) as one, SqliteSessions(file, clock=clock) as two:
        assert not await two.is_revoked("token")
        await one.revoke("token", clock.now + timedelta(minutes=30))
        assert await two.is_revoked("token")
        assert not await two.is_revoked("another")
    async with SqliteSessions(file, clock=clock) as again:
        assert await again.is_revoked("token")
        clock.now += timedelta(minutes=30)
        await again.sweep()
        assert query(file, "SELECT * FROM revoked") == []


# --- the file ----------------------------------------------------------------------------------


async def test_a_restart_keeps_everything(file: Path) -> None:
    """What one process stored, the next one has: session, times, conversation."""
    session_id = new_id()
    async with SqliteSessions(file) as before:
        await turn(before, session_id, "hello")
        session = await before.of(OWNER).get(session_id)
    async with SqliteSessions(file) as after:
        assert await after.of(OWNER).get(session_id) == session
        assert await conversation(after, session_id) == said("hello")
        await turn(after, str(session_id), "again")
        assert await conversation(after, session_id) == said("hello", "again")


async def test_the_file_stays_small(sessions: SqliteSessions, file: Path) -> None:
    """2,000 sessions, made and deleted in hundreds, take no more room than the first hundreds."""

    def size() -> int:
        return sum(part.stat().st_size for part in file.parent.iterdir())

    after_some = 0
    for hundred in range(20):
        ids = [new_id() for _ in range(100)]
        for session_id in ids:
            await turn(sessions, session_id, "word " * 100)
        for session_id in ids:
            await sessions.of(OWNER).delete(session_id)
        if hundred == 3:
            after_some = size()
    assert size() <= 1.1 * after_some
    for table in ("sessions", "turns", "conversations", "messages"):
        assert query(file, f"SELECT * FROM {table}") == []  # noqa: S608 - the names above
    await sessions.sweep()
    await sessions.close()
    assert size() < 0.1 * after_some


async def test_only_its_owner_reads_the_file(sessions: SqliteSessions, file: Path) -> None:
    """What people said is not for other users of the machine, in no file of the database."""
    await visit(sessions.of(OWNER), new_id())
    modes = {part.stat().st_mode & 0o777 for part in file.parent.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough\n" * 200, b"SQLite format 3"]
)
def test_a_damaged_file_is_told(file: Path, content: bytes) -> None:
    """A file that is no database stops the start in a sentence that names it, and stays."""
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=str(file)):
        asyncio.run(SqliteSessions(file).__aenter__())
    assert file.read_bytes() == content


def damage(file: Path) -> None:
    """Overwrite all pages but the first."""
    content = file.read_bytes()
    file.write_bytes(content[:4096].ljust(len(content), b"\xff"))


async def test_damage_while_running_is_a_503(sessions: SqliteSessions, file: Path) -> None:
    """Pages overwritten under a running service: 503, without a word from the database."""
    for _ in range(50):
        await turn(sessions, new_id(), "word " * 500)
    await sessions.close()
    damage(file)
    with pytest.raises(SessionStoreUnavailable) as caught:
        await sessions.of(OWNER).page(limit=10)
    assert (caught.value.status, caught.value.detail) == (503, None)


async def test_another_version_is_refused(sessions: SqliteSessions, file: Path) -> None:
    """A file whose tables this code does not know is refused at the start."""
    query(file, "PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="99"):
        await SqliteSessions(file).__aenter__()


async def test_a_locked_file_is_a_503_soon(file: Path) -> None:
    """Somebody holds the write lock: everyone who waits at once is refused at once, after
    `patience`; reading goes on, and when the lock is gone all is well."""
    async with SqliteSessions(file, patience=0.3) as sessions:
        session_id = new_id()
        await turn(sessions, session_id, "hello")
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            attempts = [turn(sessions, session_id, "no") for _ in range(20)]
            async with asyncio.timeout(20 * 0.3 / 2):
                refused = await asyncio.gather(*attempts, return_exceptions=True)
            assert {type(exc) for exc in refused} == {SessionStoreUnavailable}
            assert await conversation(sessions, session_id) == said("hello")
        await turn(sessions, session_id, "again")
        assert await conversation(sessions, session_id) == said("hello", "again")


# --- the conversation --------------------------------------------------------------------------


class CountingSerde(JsonPlusSerializer):
    """Counts the bytes that go into the file, and come out of it."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self.bytes = 0

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, value = super().dumps_typed(obj)
        self.bytes += len(value)
        return kind, value

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        self.bytes += len(data[1])
        return super().loads_typed(data)


def counted(sessions: SqliteSessions) -> CountingSerde:
    serde = CountingSerde()
    sessions.checkpoints.serde = serde
    return serde


@pytest.mark.parametrize("workers", [1, 2])
async def test_turn_200_costs_what_turn_20_costs(file: Path, workers: int) -> None:
    """Bytes stored and loaded for a turn do not grow with the conversation, in one worker nor
    with two that take turns."""
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(SqliteSessions(file, limit=5)) for _ in range(workers)
        ]
        serdes = [counted(store) for store in stores]
        session_id, cost = new_id(), dict[int, int]()
        for number in range(1, 201):
            before = sum(serde.bytes for serde in serdes)
            await turn(stores[number % workers], session_id, f"{number:03} " + "word " * 50)
            cost[number] = sum(serde.bytes for serde in serdes) - before
        assert cost[200] == cost[20]
        texts = [f"{number:03} " + "word " * 50 for number in range(1, 201)]
        assert await conversation(stores[0], session_id) == said(*texts)


async def put(sessions: SqliteSessions, session_id: str, messages: list[Any]) -> None:
    async with sessions.of(OWNER).turn(session_id, wait=1):
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": messages}
        await sessions.checkpoints.aput(thread(session_id), checkpoint, {}, {})


async def test_messages_may_change_in_other_ways(file: Path) -> None:
    """A conversation that was shortened, or changed in the middle, is the same in every worker."""
    first, second, third = HumanMessage("1", id="1"), AIMessage("2", id="2"), HumanMessage("3")
    async with SqliteSessions(file) as one, SqliteSessions(file) as two:
        session_id = new_id()
        for messages in (
            [first, second, third],
            [first, second],
            [AIMessage("1b"), second],
            [AIMessage("1b"), second, third],
            [],
            [third],
        ):
            await put(one, session_id, messages)
            expected = [message.text for message in messages]
            assert await conversation(two, session_id) == expected
            assert await conversation(one, session_id) == expected
            await put(two, session_id, messages)
            assert await conversation(one, session_id) == expected


async def test_a_forgotten_conversation_is_read_again(file: Path) -> None:
    """What a worker has no room to remember it reads from the file, and stores as well."""
    async with SqliteSessions(file) as sessions:
        sessions.checkpoints = SqliteCheckpoints(sessions.database, sessions._hold, remembered=1)
        a, b = new_id(), new_id()
        for text in ("1", "2", "3"):
            await turn(sessions, a, text)
            await turn(sessions, b, text)
        assert await conversation(sessions, a) == said("1", "2", "3")
        assert await conversation(sessions, b) == said("1", "2", "3")


async def test_a_store_that_fails_remembers_nothing(file: Path) -> None:
    """A checkpoint that did not get into the file is not in the worker's memory, either."""
    async with SqliteSessions(file, patience=0.05) as sessions:
        session_id = new_id()
        await turn(sessions, session_id, "hello")

        async def locked_out() -> None:
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                async with sessions.of(OWNER).turn(session_id, wait=1):
                    other.execute("BEGIN IMMEDIATE")
                    await add(sessions, session_id, "no")

        with pytest.raises(SessionStoreUnavailable):
            await locked_out()
        assert await conversation(sessions, session_id) == said("hello")
        query(file, "DELETE FROM turns")
        await turn(sessions, session_id, "yes")
        assert await conversation(sessions, session_id) == said("hello", "yes")


async def test_what_is_read_can_be_changed_without_harm(
    sessions: SqliteSessions, session_id: str
) -> None:
    """The list that a caller gets is their own."""
    saved = await sessions.checkpoints.aget_tuple(thread(session_id))
    assert saved
    saved.checkpoint["channel_values"]["messages"].clear()
    assert await conversation(sessions, session_id) == said("hello")


async def test_a_conversation_can_be_forgotten_alone(
    sessions: SqliteSessions, session_id: str, file: Path
) -> None:
    """LangGraph's own way to delete a thread works, too."""
    await sessions.checkpoints.adelete_thread(session_id)
    assert await sessions.checkpoints.aget_tuple(thread(session_id)) is None
    assert query(file, "SELECT * FROM messages") == []


async def test_deletion_looks_at_one_session_alone(file: Path, sessions: SqliteSessions) -> None:
    """The statements that delete a session's rows search an index; none walks through a table."""
    for table in ("turns", "conversations", "messages"):
        (plan,) = query(file, f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE session = 1")  # noqa: S608
        assert "SEARCH" in plan[3]


async def test_only_safe_types_are_read(sessions: SqliteSessions, session_id: str) -> None:
    """What the file holds never decides what is imported: an unknown type comes back as data."""
    serde = sessions.checkpoints.serde
    assert isinstance(serde.loads_typed(serde.dumps_typed(Clock().now)), datetime)
    stored = serde.dumps_typed(Session("s", Clock().now, Clock().now))
    assert not isinstance(serde.loads_typed(stored), Session)


# --- under the service -------------------------------------------------------------------------


@asynccontextmanager
async def service(sessions: SqliteSessions, owner: str) -> AsyncIterator[AgentService]:
    with OfflineModel() as model:
        async with open_llm(model="gpt-4o-mini", api_key="k", base_url=model.base_url) as llm:
            yield AgentService(llm, sessions.checkpoints, sessions.of(owner))


async def test_the_agent_service_works_on_it(sessions: SqliteSessions, file: Path) -> None:
    """Questions, a stream, the session's messages, its end: AgentService as it is."""
    async with service(sessions, OWNER) as agent:
        first = await agent.process_query("Hello!", new_id())
        chunks = [c async for c in agent.stream_query("What is 6 times 7?", first.session_id)]
        assert chunks[-1].done
        assert chunks[-1].metadata
        assert "error" not in chunks[-1].metadata
        info = await agent.get_session_info(first.session_id, with_messages=True)
        assert info.message_count == 4
        assert info.messages
        assert [m.content for m in info.messages[::2]] == ["Hello!", "What is 6 times 7?"]
        await agent.clear_session(first.session_id)
        assert query(file, "SELECT * FROM messages") == []
        with pytest.raises(SessionNotFound):
            await agent.process_query("Hello?", first.session_id)


async def test_a_failed_turn_stores_no_half(sessions: SqliteSessions, file: Path) -> None:
    """A model that breaks in the middle of a turn leaves the conversation as it was."""
    with OfflineModel() as model:
        async with open_llm(model="gpt-4o-mini", api_key="k", base_url=model.base_url) as llm:
            agent = AgentService(llm, sessions.checkpoints, sessions.of(OWNER))
            first = await agent.process_query("Hello!", new_id())
            model.respond(Scenario(malformed=True))
            with pytest.raises(ModelError):
                await agent.process_query("What is 6 times 7?", first.session_id)
            with pytest.raises(ModelError):
                await agent.process_query("What is 6 times 7?", new_id())
            info = await agent.get_session_info(first.session_id)
            assert info.message_count == 2
    assert query(file, "SELECT count(*) FROM sessions") == [(1,)]


async def test_turns_of_the_service_are_fenced(
    sessions: SqliteSessions, file: Path, session_id: str
) -> None:
    """LangGraph stores a checkpoint in a task of its own; the fence reaches it there."""

    async def lose(agent: AgentService) -> None:
        async with sessions.of(OWNER).turn(session_id, wait=1):
            query(file, "DELETE FROM turns")
            state, context = new_turn("Hello!"), TurnContext(5)
            await agent.graph.ainvoke(state, thread(session_id), context=context, durability="exit")

    async with service(sessions, OWNER) as agent:
        with pytest.raises(Overloaded):
            await lose(agent)
    assert await conversation(sessions, session_id) == said("hello")
