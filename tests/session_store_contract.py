"""What every session store promises: inherit SessionStoreContract, and say how to make yours."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import SessionBusy, SessionNotFound
from shared.ports import SessionStore

BEGINNING = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


class Clock:
    """A clock that goes on by one second whenever it is read."""

    def __init__(self) -> None:
        self.now = BEGINNING

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


class Queue:
    """Turns that take their place in one session's line, and note when they get in."""

    def __init__(self, store: SessionStore, session_id: str = "s") -> None:
        self.store = store
        self.session_id = session_id
        self.entered: list[int] = []
        self.leave = asyncio.Event()

    async def take(self, number: int, wait: float = 5) -> None:
        async with self.store.turn(self.session_id, wait=wait):
            self.entered.append(number)
            await self.leave.wait()

    async def start(self, number: int, wait: float = 5) -> asyncio.Task[None]:
        """Returns once the turn is in, or in line."""
        task = asyncio.create_task(self.take(number, wait))
        await asyncio.sleep(0)
        await self.store.page(limit=1)  # a store that works elsewhere has now got to it
        return task


async def visit(store: SessionStore, session_id: str) -> None:
    async with store.turn(session_id, wait=1):
        pass


class SessionStoreContract:
    """Inherit this, and say how to make the store."""

    def make(self, limit: int, clock: Callable[[], datetime]) -> SessionStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self) -> SessionStore:
        return self.make(limit=100, clock=Clock())

    async def test_a_turn_makes_the_session(self, store: SessionStore) -> None:
        """A session exists from its first turn on, and remembers when that was."""
        async with store.turn("s", wait=1) as session:
            assert session.id == "s"
            assert (await store.get("s")).created_at == session.created_at
        later = await store.get("s")
        assert BEGINNING < later.created_at < later.last_activity

    async def test_unknown_sessions_are_not_found(self, store: SessionStore) -> None:
        """Nobody can look up or delete what is not there."""
        with pytest.raises(SessionNotFound):
            await store.get("s")
        with pytest.raises(SessionNotFound):
            await store.delete("s")

    async def test_turns_come_in_order(self, store: SessionStore) -> None:
        """Turns of one session get in one at a time, in the order in which they asked."""
        queue = Queue(store)
        tasks = [await queue.start(number) for number in range(20)]
        assert queue.entered == [0]
        queue.leave.set()
        await asyncio.gather(*tasks)
        assert queue.entered == list(range(20))

    async def test_sessions_do_not_wait_for_each_other(self, store: SessionStore) -> None:
        """A turn of one session holds up no other session."""
        async with store.turn("a", wait=1), store.turn("b", wait=0.001):
            pass

    async def test_a_turn_that_waits_too_long_is_refused(self, store: SessionStore) -> None:
        """After `wait` seconds in line a turn gives up, and the one after it is not harmed."""
        queue = Queue(store)
        first = await queue.start(1)
        with pytest.raises(SessionBusy):
            await queue.take(2, wait=0.01)
        third = await queue.start(3)
        queue.leave.set()
        await asyncio.gather(first, third)
        assert queue.entered == [1, 3]

    async def test_a_waiter_that_leaves_gives_up_its_place(self, store: SessionStore) -> None:
        """A cancelled waiter is skipped."""
        queue = Queue(store)
        first, second, third = [await queue.start(number) for number in (1, 2, 3)]
        second.cancel()
        queue.leave.set()
        await asyncio.gather(first, third)
        assert queue.entered == [1, 3]

    async def test_a_failing_turn_lets_the_next_one_in(self, store: SessionStore) -> None:
        """Whatever happens in a turn, the session takes the next one."""
        with pytest.raises(ZeroDivisionError):
            async with store.turn("s", wait=1):
                raise ZeroDivisionError
        await visit(store, "s")

    async def test_a_turn_does_not_bring_back_a_deleted_session(self, store: SessionStore) -> None:
        """What was deleted during a turn stays deleted after it."""
        async with store.turn("s", wait=1):
            await store.delete("s")
        with pytest.raises(SessionNotFound):
            await store.get("s")

    async def test_pages_go_from_the_newest_to_the_oldest(self, store: SessionStore) -> None:
        """Pages have every session once, newest activity first, and end with a null cursor."""
        for session_id in ("a", "b", "c", "d", "e", "a"):
            await visit(store, session_id)
        first = await store.page(limit=2)
        second = await store.page(limit=2, cursor=first.next_cursor)
        third = await store.page(limit=2, cursor=second.next_cursor)
        assert [first.ids, second.ids, third.ids] == [["a", "e"], ["d", "c"], ["b"]]
        assert [first.count, second.count, third.count] == [5, 5, 5]
        assert third.next_cursor is None

    async def test_pages_hold_while_sessions_are_used(self, store: SessionStore) -> None:
        """Activity between two pages shows no session twice."""
        for session_id in "abcd":
            await visit(store, session_id)
        first = await store.page(limit=2)
        await visit(store, "d")
        second = await store.page(limit=2, cursor=first.next_cursor)
        assert first.ids + second.ids == ["d", "c", "b", "a"]

    async def test_the_longest_idle_session_makes_room(self) -> None:
        """One session more than the limit, and the one that was idle longest is gone."""
        store = self.make(limit=2, clock=Clock())
        for session_id in ("a", "b", "a", "c"):
            await visit(store, session_id)
        assert (await store.page(limit=10)).ids == ["c", "a"]

    async def test_a_busy_session_is_not_idle(self) -> None:
        """A session with a turn under way is never the one that makes room."""
        store = self.make(limit=2, clock=Clock())
        await visit(store, "a")
        async with store.turn("a", wait=1):
            await visit(store, "b")
            await visit(store, "c")
            assert set((await store.page(limit=10)).ids) == {"c", "a"}

    async def test_failing_turns_push_nobody_out(self) -> None:
        """A new session whose first turn fails is forgotten, and nobody had to make room for it."""
        store = self.make(limit=2, clock=Clock())
        await visit(store, "a")
        await visit(store, "b")
        for session_id in ("c", "d", "a"):
            with pytest.raises(ZeroDivisionError):
                async with store.turn(session_id, wait=1):
                    raise ZeroDivisionError
        assert (await store.page(limit=10)).ids == ["a", "b"]

    async def test_more_than_the_limit_only_while_busy(self) -> None:
        """When all sessions are busy nobody is refused; room is made when a turn ends."""
        store = self.make(limit=1, clock=Clock())
        async with store.turn("a", wait=1):
            await visit(store, "b")
            assert (await store.page(limit=10)).ids == ["b", "a"]
        assert (await store.page(limit=10)).ids == ["a"]
