"""A turn has a task, a bounded queue, a deadline and an end, whoever brings it about."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.errors import AgentError, ModelTimeout, Overloaded, SessionNotFound
from shared.memory import LatestCheckpoints, MemorySessions
from shared.turns import READ_AHEAD, Turn, Turns

Work = Callable[[Turn], Awaitable[Any]]


def make_turns(timeout: float = 5, wait: float = 5) -> tuple[Turns, MemorySessions]:
    sessions = MemorySessions(LatestCheckpoints())
    return Turns(sessions, timeout=timeout, wait=wait), sessions


async def say_hello(turn: Turn) -> str:
    await turn.emit("Hello", {})
    return "done"


async def hang(turn: Turn) -> None:
    await asyncio.Event().wait()


async def hang_after_a_word(turn: Turn) -> None:
    await turn.emit("Hello", {})
    await hang(turn)


async def fail(turn: Turn) -> None:
    raise KeyError("a secret")


async def chatter(turn: Turn) -> None:
    while True:
        await turn.emit("blah", {})


async def test_words_then_a_result() -> None:
    """What is emitted comes first, and then what the work returned."""
    turns, _ = make_turns()
    async with turns.open("s", say_hello) as turn:
        assert [chunk.chunk async for chunk in turn.chunks()] == ["Hello"]
        assert await turn.result() == "done"


async def test_a_stalled_reader_stops_the_writer() -> None:
    """Nobody reads, so after READ_AHEAD pieces the work waits."""
    turns, _ = make_turns()
    emitted = 0

    async def count(turn: Turn) -> None:
        nonlocal emitted
        while True:
            await turn.emit("blah", {})
            emitted += 1

    async with turns.open("s", count) as turn:
        for _ in range(READ_AHEAD * 3):
            await asyncio.sleep(0)
        assert emitted == READ_AHEAD
        await anext(turn.chunks())
        for _ in range(3):
            await asyncio.sleep(0)
        assert emitted == READ_AHEAD + 1


@pytest.mark.parametrize("work", [hang, hang_after_a_word, chatter])
async def test_a_deadline_holds(work: Work) -> None:
    """Work that does not end in time is a timeout, whatever it waits for."""
    turns, _ = make_turns(timeout=0.01)
    async with turns.open("s", work) as turn:
        with pytest.raises(ModelTimeout):
            await turn.result()


async def test_leaving_stops_the_work() -> None:
    """When nobody is interested any more, the work is cancelled before the block is left."""
    turns, _ = make_turns()
    stopped = asyncio.Event()

    async def work(turn: Turn) -> None:
        try:
            await hang(turn)
        finally:
            stopped.set()

    async with turns.open("s", work):
        await asyncio.sleep(0)
        assert not stopped.is_set()
    assert stopped.is_set()


async def test_what_nobody_foresaw_is_logged_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """A bug reaches the log with its traceback, and the caller as an internal error."""
    turns, _ = make_turns()
    async with turns.open("s", fail) as turn:
        with pytest.raises(AgentError) as raised:
            await turn.result()
    assert raised.value.code == "internal_error"
    assert "secret" not in str(raised.value.as_response())
    assert "KeyError: 'a secret'" in caplog.text


@pytest.mark.parametrize("work", [hang, hang_after_a_word, chatter])
async def test_ending_a_session_waits_for_no_reader(work: Work) -> None:
    """All turns of the session end, running or in line, though their readers have not moved."""
    turns, _ = make_turns()
    async with (
        turns.open("s", work) as running,
        turns.open("s", hang) as waiting,
        turns.open("another", say_hello) as other,
    ):
        await asyncio.sleep(0)
        await turns.end("s", SessionNotFound())
        assert await other.result() == "done"
        for turn in (running, waiting):
            with pytest.raises(SessionNotFound):
                await turn.result()


async def test_a_turn_whose_reader_left_in_haste_can_still_be_ended() -> None:
    """A reader that is cancelled again while it leaves does not hide a turn still at work."""
    turns, _ = make_turns()
    let_go = asyncio.Event()
    over = False

    async def slow_to_stop(turn: Turn) -> None:
        nonlocal over
        try:
            await hang(turn)
        finally:
            await let_go.wait()
            over = True

    async def read() -> None:
        async with turns.open("s", slow_to_stop):
            await asyncio.Event().wait()

    reader = asyncio.create_task(read())
    for _ in range(3):
        await asyncio.sleep(0)
    while not reader.done():  # as anyio does inside a cancelled scope
        reader.cancel()
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(let_go.set)
    await turns.end("s", SessionNotFound())
    assert over


async def test_draining_takes_no_more_turns() -> None:
    """Turns that end in the grace are left alone, the others are ended, new ones are refused."""
    turns, _ = make_turns()
    async with turns.open("a", say_hello) as short, turns.open("b", hang) as long:
        await turns.drain(grace=0.01)
        assert await short.result() == "done"
        with pytest.raises(Overloaded):
            await long.result()
    with pytest.raises(Overloaded):
        async with turns.open("c", say_hello):
            pass


@pytest.mark.parametrize(
    ("work", "kept"),
    [(fail, 0), (hang_after_a_word, 0), (say_hello, 1)],
    ids=["failed", "cut after a word", "answered"],
)
async def test_only_sessions_with_a_good_turn_stay(work: Work, kept: int) -> None:
    """A first turn that fails takes its session along."""
    turns, sessions = make_turns(timeout=0.01)
    async with turns.open(None, work) as turn:
        await turn.over()
    assert (await sessions.page(limit=10)).count == kept
