"""The cache: what is kept, what is not believed, and one flight for equal questions."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from advanced.app.cache import CacheService, cache_key
from advanced.app.flight import Say, Work
from advanced.app.flights import LEASE, Flights, as_error
from advanced.app.redis_link import Patience, open_redis
from shared.errors import AgentError, ModelUnavailable, Overloaded
from tests.serving import ROOT
from tests.valkey import Valkey, valkey

UNHURRIED = Patience(deadline=10, slow=10)
KEY = cache_key("answer", user="ada", query="What is SSE?")
VALUE = {"response": "Server-sent events.", "tokens_used": 12}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def running() -> Iterator[Valkey]:
    with valkey() as server:
        yield server


@pytest.fixture
def server(running: Valkey) -> Valkey:
    """Empty; one process for the file. A test that spoils it has its own."""
    running.ask("FLUSHALL")
    running.ask("CONFIG", "RESETSTAT")
    return running


@asynccontextmanager
async def worker(server: Valkey, **more: Any) -> AsyncIterator[Flights]:
    """A worker's flights and cache, with a connection of its own."""
    async with open_redis(**server.address, patience=UNHURRIED) as link:
        flights = Flights(CacheService(link, **{"ttl": 60, **more}))
        try:
            yield flights
        finally:
            await flights.aclose()
            assert link.away is None, "the test did not test Redis"


@pytest.fixture
async def flights(server: Valkey) -> AsyncIterator[Flights]:
    async with worker(server) as flights:
        yield flights


@pytest.fixture
async def other(server: Valkey) -> AsyncIterator[Flights]:
    """Another worker's."""
    async with worker(server) as flights:
        yield flights


class Model:
    """What a question costs: how often it was asked, answered, given up. Answers when it may."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, say: Say) -> Any:
        self.calls += 1
        self.asked.set()
        try:
            say("Server-sent ")
            await self.may_answer.wait()
            say("events.")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return VALUE


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def quick(model: Model) -> Model:
    model.may_answer.set()
    return model


async def ask(flights: Flights, work: Work, key: str = KEY, **more: Any) -> tuple[Any, str]:
    async with flights.answer(key, work, **more) as answer:
        return await answer.result(), answer.source


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.005)


async def until_followed(server: Valkey, key: str = KEY) -> None:
    """Until another worker waits for the flight."""
    await until(lambda: server.ask("EXISTS", f"{key}:wanted"))


async def until_landed(server: Valkey, key: str = KEY) -> None:
    """Until nobody makes the answer any more, as seen from outside."""
    await until(lambda: not server.ask("EXISTS", f"{key}:flight"))


# Keys and values


def test_a_key_is_a_digest_of_all_that_matters() -> None:
    """Equal for equal arguments, whatever their order; different as soon as one differs."""
    keys = {
        cache_key("answer", "q", user="ada", depth=1),
        cache_key("answer", "q", user="bob", depth=1),
        cache_key("answer", "q", user="ada", depth="1"),
        cache_key("answer", "q", user="ada", depth=True),
        cache_key("answer", "q", "ada", depth=1),
        cache_key("answer", "q,", user="ada", depth=1),
        cache_key("answer", ["q"], user="ada", depth=1),
        cache_key("answer", {"user": "ada", "depth": 1}),
        cache_key("other", "q", user="ada", depth=1),
    }
    assert len(keys) == 9
    assert cache_key("answer", "q", depth=1, user="ada") in keys
    prefix, name, digest = cache_key("answer", "q").split(":")
    assert (prefix, name, len(digest)) == ("cache", "answer", 64)
    assert int(digest, 16)


async def test_what_is_not_kept_is_for_those_who_waited(flights: Flights, quick: Model) -> None:
    """Who asks when the answer has been given has it made anew, however soon that is."""
    for times in range(1, 6):
        assert await ask(flights, quick, keep=lambda _: False) == (VALUE, "made")
        assert quick.calls == times


async def test_what_is_set_is_found(flights: Flights, other: Flights) -> None:
    """By every worker, under the same arguments only."""
    await flights.cache.set("page", {"text": "ü\u2028"}, None, "a", size=2)
    assert await other.cache.get("page", "a", size=2) == {"text": "ü\u2028"}
    assert await other.cache.get("page", "a", size=3) is None
    assert await other.cache.get("page", size=2) is None


async def test_it_is_kept_as_long_as_it_says(server: Valkey) -> None:
    """CACHE_TTL, or what the call says; nothing without an end, and nothing for no time."""
    async with worker(server, ttl=30) as flights:
        await flights.cache.set("page", 1, None, "default")
        await flights.cache.set("page", 1, 5, "short")
        await flights.cache.set("page", 1, 0, "not at all")
        await ask(flights, lambda say: value(1), cache_key("page", "flight"))
        await until_landed(server, cache_key("page", "flight"))

    def left(name: str) -> int:
        return round(int(server.ask("PTTL", cache_key("page", name))) / 1000)

    assert [left("default"), left("short"), left("flight")] == [30, 5, 30]
    assert not server.ask("EXISTS", cache_key("page", "not at all"))


async def test_it_is_gone_after_that(flights: Flights) -> None:
    """A value whose time is over is not found."""
    await flights.cache.set("page", "old", 1, "a")
    assert await flights.cache.get("page", "a") == "old"
    await asyncio.sleep(1)
    assert await flights.cache.get("page", "a") is None


async def test_values_are_plain_json_that_names_its_key(
    server: Valkey, flights: Flights, quick: Model
) -> None:
    """No pickle, and no command that walks through all keys."""
    await ask(flights, quick)
    await until_landed(server)
    assert json.loads(server.ask("GET", KEY)) == {"key": KEY, "value": VALUE}
    used = server.ask("INFO", "commandstats")
    assert "cmdstat_evalsha" in str(used)
    assert not {"cmdstat_keys", "cmdstat_scan"} & set(used)


POISONS = {
    "garbage": ("SET", KEY, b"\x80\x04not json"),
    "nothing": ("SET", KEY, b""),
    "no envelope": ("SET", KEY, json.dumps(VALUE)),
    "another key's": ("SET", KEY, json.dumps({"key": cache_key("answer", 2), "value": VALUE})),
    "no value": ("SET", KEY, json.dumps({"key": KEY})),
    "an error": ("SET", KEY, json.dumps({"key": KEY, "error": ["AgentError", "x", None]})),
    "deep": ("SET", KEY, b"[" * 100_000),
    "a list": ("RPUSH", KEY, "x"),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
async def test_a_poisoned_value_is_a_miss(
    server: Valkey, flights: Flights, quick: Model, poison: tuple[str | bytes, ...]
) -> None:
    """What is not ours is not believed, and a good answer takes its place."""
    server.ask(*poison)
    assert await flights.cache.get("answer", user="ada", query="What is SSE?") is None
    assert await ask(flights, quick) == (VALUE, "made")
    await until_landed(server)
    assert await flights.cache.get("answer", user="ada", query="What is SSE?") == VALUE


@pytest.mark.parametrize(
    "lock",
    [
        ("SET", f"{KEY}:flight", "held:somebody"),  # for ever
        ("SET", f"{KEY}:flight", "held:somebody", "EX", 3600),
        ("SET", f"{KEY}:flight", "what?", "PX", 500),
        ("RPUSH", f"{KEY}:flight", "x"),
    ],
)
async def test_a_flight_that_nobody_can_hold_is_not_waited_for(
    server: Valkey, flights: Flights, quick: Model, lock: tuple[str | int, ...]
) -> None:
    """A lease is never longer than ours are; anything else would be waited for in vain."""
    server.ask(*lock)
    async with asyncio.timeout(LEASE / 2):
        assert await ask(flights, quick) == (VALUE, "made")


# One flight


async def test_a_hundred_equal_questions_make_one_call(flights: Flights, model: Model) -> None:
    """One is the maker; the others share, and each gets a copy of its own."""
    asking = [asyncio.create_task(ask(flights, model)) for _ in range(100)]
    await model.asked.wait()
    model.may_answer.set()
    answers = await asyncio.gather(*asking)
    assert model.calls == 1
    assert all(answer == VALUE for answer, _ in answers)
    assert len({id(answer) for answer, _ in answers}) == 100
    assert Counter(source for _, source in answers) == {"made": 1, "shared": 99}


async def test_other_questions_do_not_wait(flights: Flights, model: Model) -> None:
    """A flight holds up nobody who asks something else."""
    slow = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    assert await ask(flights, lambda say: value(2), cache_key("answer", 2)) == (2, "made")
    model.may_answer.set()
    await slow


async def test_the_next_who_asks_gets_what_is_stored(
    server: Valkey, flights: Flights, other: Flights, quick: Model
) -> None:
    """In every worker, without a call and without pieces, and it says that it is cached."""
    await ask(flights, quick)
    await until_landed(server)
    for place in (flights, other):
        async with place.answer(KEY, quick) as answer:
            assert [piece async for piece in answer.pieces()] == []
            assert await answer.result() == VALUE
            assert answer.source == "stored"
            assert answer.cached
    assert quick.calls == 1


async def test_workers_share_a_flight(
    server: Valkey, flights: Flights, other: Flights, model: Model
) -> None:
    """While one worker makes the answer, the other's hundred wait for it."""
    first = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    rest = [asyncio.create_task(ask(other, model)) for _ in range(100)]
    await until_followed(server)
    model.may_answer.set()
    assert await first == (VALUE, "made")
    assert await asyncio.gather(*rest) == [(VALUE, "shared")] * 100
    assert model.calls == 1


async def test_processes_share_a_flight(server: Valkey) -> None:
    """The same with processes of their own: a hundred questions, one call."""
    processes = [await start(server) for _ in range(2)]
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    counts = [json.loads(output) for output, _ in outputs]
    assert sum(calls for calls, _ in counts) == 1
    assert sum(answers for _, answers in counts) == 100


async def test_a_latecomer_hears_it_all(flights: Flights, model: Model) -> None:
    """Pieces come as they are said, to who asked first and to who came later; then they end."""
    async with flights.answer(KEY, model) as first, asyncio.timeout(20):
        early = first.pieces()
        assert await anext(early) == "Server-sent "
        async with flights.answer(KEY, model) as second:
            late = second.pieces()
            assert await anext(late) == "Server-sent "
            model.may_answer.set()
            assert [piece async for piece in late] == ["events."]
            assert await second.result() == VALUE
            assert (first.cached, second.cached) == (False, True)
        assert [piece async for piece in early] == ["events."]


async def test_who_does_not_read_holds_up_nobody(flights: Flights) -> None:
    """One waiter's slow reader is no other waiter's trouble."""

    async def talk(say: Say) -> int:
        for number in range(1000):
            say(number)
            await asyncio.sleep(0)
        return 1000

    async with flights.answer(KEY, talk) as idle, asyncio.timeout(20):
        async with flights.answer(KEY, talk) as reader:
            assert [piece async for piece in reader.pieces()] == list(range(1000))
        assert len([piece async for piece in idle.pieces()]) == 1000


async def test_without_redis_each_worker_has_its_own_flight(model: Model) -> None:
    """Nothing is kept, but equal questions at once still make one call in this process."""
    flights = Flights(CacheService(None, ttl=60))
    asking = [asyncio.create_task(ask(flights, model)) for _ in range(100)]
    await model.asked.wait()
    model.may_answer.set()
    await asyncio.gather(*asking)
    assert model.calls == 1
    assert await ask(flights, model) == (VALUE, "made")
    await flights.cache.set("page", 1)
    assert await flights.cache.get("page") is None


async def test_a_cache_that_is_off_shares_nothing(server: Valkey, quick: Model) -> None:
    """CACHE_ENABLED=false: everybody's answer is their own, and Redis hears of none."""
    async with worker(server, enabled=False) as flights:
        answers = await asyncio.gather(*(ask(flights, quick) for _ in range(5)))
        await flights.cache.set("page", 1)
        assert await flights.cache.get("page") is None
    assert answers == [(VALUE, "made")] * 5
    assert quick.calls == 5
    assert not server.ask("EXISTS", KEY, f"{KEY}:flight", cache_key("page"))


# Those who leave


async def test_a_leader_who_leaves_harms_nobody(flights: Flights, model: Model) -> None:
    """The first who asked is cancelled; those who joined get the answer of the same call."""
    leader = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    rest = [asyncio.create_task(ask(flights, model)) for _ in range(5)]
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.wait([leader])
    model.may_answer.set()
    assert [answer for answer, _ in await asyncio.gather(*rest)] == [VALUE] * 5
    assert (model.calls, model.cancelled) == (1, 0)


async def test_a_leader_who_leaves_harms_no_other_worker(
    server: Valkey, flights: Flights, other: Flights, model: Model
) -> None:
    """The call goes on while somebody in another worker waits for it."""
    leader = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    follower = asyncio.create_task(ask(other, model))
    await until_followed(server)
    leader.cancel()
    await asyncio.sleep(0.8)  # longer than it would take to stop an unwanted one
    model.may_answer.set()
    assert await follower == (VALUE, "shared")
    assert (model.calls, model.cancelled) == (1, 0)


@pytest.mark.parametrize("place", ["alone", "with redis", "redis away"])
async def test_the_call_stops_when_the_last_has_left(place: str, model: Model) -> None:
    """Within a second of it; and who asks after that gets an answer of their own."""
    with valkey() as server:
        async with open_redis(**server.address) as link:
            flights = Flights(CacheService(None if place == "alone" else link, ttl=60))
            asking = [asyncio.create_task(ask(flights, model)) for _ in range(3)]
            await model.asked.wait()
            if place == "redis away":
                server.freeze()
            await leave_one_by_one(asking, model)
            model.may_answer.set()
            assert await ask(flights, model) == (VALUE, "made")
            await flights.aclose()
    assert (model.calls, model.cancelled) == (2, 1)


async def leave_one_by_one(asking: list[asyncio.Task[Any]], model: Model) -> None:
    for task in asking[:-1]:
        task.cancel()
    await asyncio.wait(asking[:-1])
    assert not model.cancelled
    asking[-1].cancel()
    started = time.perf_counter()
    await until(lambda: model.cancelled)
    assert time.perf_counter() - started < 1.0


async def test_the_call_stops_when_the_last_worker_has_left(
    server: Valkey, flights: Flights, other: Flights, model: Model
) -> None:
    """First the maker goes, then the follower: within a second nobody calls the model."""
    leader = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    follower = asyncio.create_task(ask(other, model))
    await until_followed(server)
    await leave_one_by_one([leader, follower], model)
    assert model.calls == 1


@pytest.mark.parametrize("with_redis", [True, False])
async def test_who_comes_while_it_is_being_stopped_is_answered(
    flights: Flights, with_redis: bool
) -> None:
    """Between the last one's leaving and the end of the call, a newcomer is not lost."""
    if not with_redis:
        flights = Flights(CacheService(None, ttl=60))
    for pauses in range(40):
        model, key = Model(), cache_key("answer", pauses)
        leaver = asyncio.create_task(ask(flights, model, key))
        await model.asked.wait()
        leaver.cancel()
        for _ in range(pauses):
            await asyncio.sleep(0)
        newcomer = asyncio.create_task(ask(flights, model, key))
        await asyncio.sleep(0)
        model.may_answer.set()
        async with asyncio.timeout(20):
            assert (await newcomer)[0] == VALUE


async def test_a_killed_worker_blocks_its_question_for_a_moment(server: Valkey) -> None:
    """`kill -9` of the process that makes the answer: the follower makes it, soon after."""
    maker = await start(server, "forever")
    assert maker.stdin
    maker.stdin.write(b"go\n")
    await until(lambda: server.ask("EXISTS", f"{KEY}:flight"))
    async with worker(server) as flights:
        follower = asyncio.create_task(ask(flights, lambda say: value(VALUE)))
        await until_followed(server)
        os.kill(maker.pid, signal.SIGKILL)
        started = time.perf_counter()
        assert await follower == (VALUE, "made")
        assert time.perf_counter() - started < LEASE + 1
    await maker.wait()


async def test_a_long_call_keeps_its_lease(
    server: Valkey, flights: Flights, other: Flights, model: Model
) -> None:
    """A call that outlasts the lease is not made a second time."""
    first = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    follower = asyncio.create_task(ask(other, model))
    await asyncio.sleep(1.5 * LEASE)
    model.may_answer.set()
    assert list(await asyncio.gather(first, follower)) == [(VALUE, "made"), (VALUE, "shared")]
    assert model.calls == 1


async def test_a_shutdown_tells_who_waits(flights: Flights, model: Model) -> None:
    """Nobody is left waiting, and the call is cancelled."""
    asking = asyncio.create_task(ask(flights, model))
    await model.asked.wait()
    await flights.aclose()
    with pytest.raises(Overloaded):
        await asking
    assert model.cancelled == 1


async def test_a_call_that_cancels_itself_leaves_nobody_waiting(flights: Flights) -> None:
    """A library's stray cancellation is an error like others."""

    async def stray(say: Say) -> None:
        raise asyncio.CancelledError

    with pytest.raises(AgentError):
        async with asyncio.timeout(20):
            await ask(flights, stray)


# Errors, and answers that are not to be kept


class Refused(AgentError):
    """One that other workers cannot make anew."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"{reason}")


async def test_an_error_reaches_all_and_is_not_kept(
    server: Valkey, flights: Flights, other: Flights, model: Model
) -> None:
    """In all workers, as it was, after one call; who asks next starts anew."""
    model.error = ModelUnavailable("The model is at lunch.", retry_after=7)
    asking = [asyncio.create_task(ask(flights, model)) for _ in range(50)]
    await model.asked.wait()
    asking += [asyncio.create_task(ask(other, model)) for _ in range(50)]
    await until_followed(server)
    model.may_answer.set()
    for error in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(error, ModelUnavailable)
        assert (error.detail, error.retry_after) == ("The model is at lunch.", 7)
    assert model.calls == 1
    model.error = None
    assert await ask(other, model) == (VALUE, "made")


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), Refused(3)])
async def test_an_error_that_cannot_travel_is_met_by_each_worker(
    server: Valkey, flights: Flights, other: Flights, model: Model, error: Exception
) -> None:
    """A bug's exception reaches all in its own process; another worker tries for itself."""
    model.error = error
    asking = [asyncio.create_task(ask(flights, model)) for _ in range(5)]
    await model.asked.wait()
    asking += [asyncio.create_task(ask(other, model)) for _ in range(5)]
    await until_followed(server)
    model.may_answer.set()
    async with asyncio.timeout(LEASE / 2):  # the flight was given up, not left to expire
        assert await asyncio.gather(*asking, return_exceptions=True) == [error] * 10
    assert model.calls == 2


async def test_what_is_not_to_be_kept_reaches_those_who_wait_alone(
    server: Valkey, flights: Flights, other: Flights, model: Model
) -> None:
    """A stopped answer is the answer of all who asked at that time, and of nobody later."""

    def keep(value: Any) -> bool:
        return False

    first = asyncio.create_task(ask(flights, model, keep=keep))
    await model.asked.wait()
    follower = asyncio.create_task(ask(other, model, keep=keep))
    await until_followed(server)
    model.may_answer.set()
    assert list(await asyncio.gather(first, follower)) == [(VALUE, "made"), (VALUE, "shared")]
    assert not server.ask("EXISTS", KEY)
    assert await ask(flights, model, keep=keep) == (VALUE, "made")
    assert model.calls == 2


@pytest.mark.parametrize(
    "data", [None, "x", [], ["Session", None, None], ["ZeroDivisionError", None, None], [1, 2, 3]]
)
def test_only_the_family_comes_out_of_redis(data: Any) -> None:
    """What stands where an error should is not made into anything else."""
    assert as_error(data) is None


# Redis' own faults; test_advanced_redis.py has what they cost


async def test_redis_dying_in_mid_flight_is_not_noticed(model: Model) -> None:
    """The answer under way is delivered; the follower in another worker makes its own."""
    with valkey() as server:
        async with (
            open_redis(**server.address) as one,
            open_redis(**server.address) as two,
        ):
            flights, other = Flights(CacheService(one, ttl=60)), Flights(CacheService(two, ttl=60))
            first = asyncio.create_task(ask(flights, model))
            await model.asked.wait()
            follower = asyncio.create_task(ask(other, model))
            await until_followed(server)
            server.kill()
            await until(lambda: model.calls == 2)
            model.may_answer.set()
            assert list(await asyncio.gather(first, follower)) == [(VALUE, "made")] * 2
            await flights.aclose()
            await other.aclose()


async def test_a_restarted_redis_learns_who_makes_the_answer(model: Model) -> None:
    """It has forgotten the flight; its holder says so again, and followers find it."""
    with valkey() as server:
        async with (
            open_redis(**server.address) as one,
            open_redis(**server.address) as two,
        ):
            flights, other = Flights(CacheService(one, ttl=60)), Flights(CacheService(two, ttl=60))
            first = asyncio.create_task(ask(flights, model))
            await model.asked.wait()
            server.kill()
            await one.check()
            server.restart()
            await until(lambda: not one.away)
            await until(lambda: server.ask("EXISTS", f"{KEY}:flight"))
            await two.check()
            await until(lambda: not two.away)
            follower = asyncio.create_task(ask(other, model))
            await until_followed(server)
            model.may_answer.set()
            assert list(await asyncio.gather(first, follower)) == [
                (VALUE, "made"),
                (VALUE, "shared"),
            ]
            await flights.aclose()
            await other.aclose()
    assert model.calls == 1


def value(content: Any) -> Awaitable[Any]:
    async def made() -> Any:
        return content

    return made()


async def start(server: Valkey, *words: str) -> asyncio.subprocess.Process:
    """A process that will ask, fifty times at once, when it is told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PROCESS, json.dumps(server.address), KEY, *words),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    return process


PROCESS = """
import asyncio, json, sys
from advanced.app.cache import CacheService
from advanced.app.flights import Flights
from advanced.app.redis_link import Patience, open_redis

calls = 0

async def work(say):
    global calls
    calls += 1
    await asyncio.sleep(600 if "forever" in sys.argv else 0.5)
    return "made"

async def ask(flights):
    async with flights.answer(sys.argv[2], work) as answer:
        return await answer.result()

async def main():
    address = json.loads(sys.argv[1])
    async with open_redis(**address, patience=Patience(deadline=10, slow=10)) as link:
        flights = Flights(CacheService(link, ttl=60))
        print("ready", flush=True)
        sys.stdin.readline()
        answers = await asyncio.gather(*(ask(flights) for _ in range(50)))
        await flights.aclose()
    print([calls, answers.count("made")])

asyncio.run(main())
"""
