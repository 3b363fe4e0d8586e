"""What every limiter promises, and who it is that is limited."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from advanced.app.limits import (
    KEYS,
    MemoryLimiter,
    RateLimiter,
    RedisLimiter,
    client_address,
    household,
    limit_headers,
)
from advanced.app.redis_link import Patience, open_redis
from tests.serving import ROOT
from tests.valkey import Valkey, valkey

LIMIT, WINDOW = 5, 60
UNHURRIED = Patience(deadline=10, slow=10)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """One for the file: a test that spoils it has its own."""
    with valkey() as running:
        yield running


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class LimiterContract:
    """Each implementation inherits this, and has a fixture `limiter` for the real thing."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    async def test_lets_the_limit_through(self, limiter: RateLimiter) -> None:
        """As many as allowed, counting down; then no more."""
        verdicts = [await limiter.hit("key") for _ in range(LIMIT + 2)]
        assert [verdict.remaining for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]
        assert [verdict.allowed for verdict in verdicts] == [True] * LIMIT + [False] * 2
        assert {(verdict.limit, verdict.window) for verdict in verdicts} == {(LIMIT, WINDOW)}

    async def test_counts_each_key_by_itself(self, limiter: RateLimiter) -> None:
        """One who asks too often is no other's trouble, however long or odd their names."""
        for key in ("key", "key ", "", "k" * 100_000, "a\r\nb", "\udcff"):
            for _ in range(LIMIT):
                assert (await limiter.hit(key)).allowed
            assert not (await limiter.hit(key)).allowed

    async def test_has_no_double_burst_at_the_edge(
        self, limiter: RateLimiter, clock: FakeClock
    ) -> None:
        """All at the end of one minute leaves none for the start of the next."""
        for _ in range(LIMIT):
            assert (await limiter.hit("key")).allowed
            clock.now += 0.001
        for moment in (1.0, 30.0, 59.9):
            clock.now = 1_700_000_000.0 + moment
            assert not (await limiter.hit("key")).allowed

    @pytest.mark.parametrize("seed", range(5))
    async def test_no_window_holds_more_than_the_limit(
        self, limiter: RateLimiter, clock: FakeClock, seed: int
    ) -> None:
        """Wherever a window is laid over a busy hour, it holds at most the limit."""
        chance = random.Random(seed)
        through = []
        for _ in range(600):
            clock.now += chance.choice([0.0, 0.25, 1.0, 7.5])
            if (await limiter.hit("key")).allowed:
                through.append(clock.now)
        apart = [later - earlier for earlier, later in zip(through, through[LIMIT:], strict=False)]
        assert min(apart) >= WINDOW
        assert len(through) > 0.8 * LIMIT * (clock.now - through[0]) / WINDOW

    @pytest.mark.parametrize("seed", range(5))
    async def test_waiting_as_long_as_it_says_is_enough(
        self, limiter: RateLimiter, clock: FakeClock, seed: int
    ) -> None:
        """After Retry-After the request is let through; a second earlier it is not."""
        chance = random.Random(seed)
        for _ in range(40):
            verdict = await limiter.hit("key")
            while verdict.allowed:
                assert verdict.retry_after is None
                clock.now += chance.choice([0.0, 0.125, 3.5, 10.0])
                verdict = await limiter.hit("key")
            assert verdict.retry_after is not None
            assert 1 <= verdict.retry_after <= WINDOW
            clock.now += verdict.retry_after - 1
            assert not (await limiter.hit("key")).allowed
            clock.now += 1
            assert (await limiter.hit("key")).allowed

    async def test_a_refusal_costs_nothing(self, limiter: RateLimiter, clock: FakeClock) -> None:
        """Who keeps knocking while refused does not wait longer for it."""
        first = clock.now
        for _ in range(LIMIT):
            await limiter.hit("key")
        for _ in range(100):
            await limiter.hit("key")
            clock.now += 0.5
        clock.now = first + WINDOW
        assert (await limiter.hit("key")).allowed

    async def test_says_when_there_will_be_more(
        self, limiter: RateLimiter, clock: FakeClock
    ) -> None:
        """`reset` counts to the moment from which one more than `remaining` is let through."""
        await limiter.hit("key")
        clock.now += 20.5
        verdict = await limiter.hit("key")
        assert (verdict.remaining, verdict.reset) == (3, 40)

    async def test_a_clock_that_is_set_back_locks_nobody_out(
        self, limiter: RateLimiter, clock: FakeClock
    ) -> None:
        """Nobody is told to wait longer than a window."""
        for _ in range(LIMIT):
            await limiter.hit("key")
        clock.now -= 3600
        assert (await limiter.hit("key")).reset == WINDOW

    async def test_many_at_once(self, limiter: RateLimiter) -> None:
        """Of 200 at once, exactly as many as allowed come through."""
        verdicts = await asyncio.gather(*(limiter.hit("key") for _ in range(200)))
        assert sum(verdict.allowed for verdict in verdicts) == LIMIT


class TestMemoryLimiter(LimiterContract):
    @pytest.fixture
    def limiter(self, clock: FakeClock) -> RateLimiter:
        return MemoryLimiter(LIMIT, WINDOW, clock=clock)

    async def test_forgets_who_is_idle(self, clock: FakeClock) -> None:
        """A key that was idle for a window takes no memory any more; one in use keeps its count."""
        limiter = MemoryLimiter(LIMIT, WINDOW, clock=clock)
        for number in range(1000):
            await limiter.hit(f"key{number}")
        clock.now += WINDOW / 2
        await limiter.hit("key7")
        assert len(limiter) == 1000
        clock.now += WINDOW / 2
        assert (await limiter.hit("key7")).remaining == LIMIT - 2
        assert len(limiter) == 1

    async def test_is_bounded(self, clock: FakeClock) -> None:
        """A flood of addresses cannot fill the memory."""
        limiter = MemoryLimiter(LIMIT, WINDOW, clock=clock)
        for number in range(KEYS + 100):
            await limiter.hit(str(number))
        assert len(limiter) <= KEYS

    async def test_says_that_it_counts_alone(self, limiter: RateLimiter) -> None:
        """What it counts is this worker's."""
        assert (await limiter.hit("key")).scope == "worker"


class TestRedisLimiter(LimiterContract):
    @pytest.fixture
    async def limiter(self, server: Valkey, clock: FakeClock) -> AsyncIterator[RateLimiter]:
        server.ask("FLUSHALL")
        async with limiting(server, clock=clock) as limiter:
            yield limiter
            verdict = await limiter.hit("at the end")
            assert verdict.scope == "shared", "the test did not test Redis"

    async def test_workers_count_together(self, server: Valkey) -> None:
        """What one worker let through, another does not let through again."""
        server.ask("FLUSHALL")
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(limiting(server)) for _ in range(2)]
            hits = [worker.hit("key") for worker in workers for _ in range(100)]
            verdicts = await asyncio.gather(*hits)
        found = Counter((verdict.allowed, verdict.scope) for verdict in verdicts)
        assert found == {(True, "shared"): LIMIT, (False, "shared"): 200 - LIMIT}

    async def test_processes_count_together(self, server: Valkey) -> None:
        """The same with processes of their own, which start at once."""
        server.ask("FLUSHALL")
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", PROCESS, json.dumps(server.address), str(LIMIT), str(WINDOW)),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout
            assert await process.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
        counts = [json.loads(output) for output, _ in answers]
        assert sum(allowed for allowed, _ in counts) == LIMIT
        assert sum(shared for _, shared in counts) == 200

    async def test_redis_forgets_who_is_idle(self, server: Valkey) -> None:
        """A key in Redis lives one window longer than its last request, and takes little room."""
        server.ask("FLUSHALL")
        async with limiting(server) as limiter:
            for _ in range(LIMIT + 3):
                await limiter.hit("somebody")
        [key] = server.ask("KEYS", "*[^e]")
        assert key.startswith(b"limit:default:")
        assert b"somebody" not in key
        assert 0 < server.ask("PTTL", key) <= WINDOW * 1000
        assert server.ask("LLEN", key) == LIMIT

    async def test_time_is_the_servers_own(self, server: Valkey) -> None:
        """Without a clock of ours, a real second passes as one."""
        server.ask("FLUSHALL")
        async with limiting(server, limit=2, window=1) as limiter:
            async with asyncio.timeout(10):
                while (verdict := await limiter.hit("key")).allowed:
                    pass
            assert verdict.retry_after == 1
            await asyncio.sleep(verdict.retry_after)
            assert (await limiter.hit("key")).allowed

    @pytest.mark.parametrize(
        "spoil", [("SET", "x"), ("HSET", "a", "b"), ("RPUSH", "not a time", "nor this")]
    )
    async def test_what_others_left_under_its_key_counts_as_nothing(
        self, server: Valkey, spoil: tuple[str, ...]
    ) -> None:
        """A foreign value neither lets everybody through nor locks anybody out."""
        server.ask("FLUSHALL")
        async with limiting(server) as limiter:
            await limiter.hit("key")
            [key] = server.ask("KEYS", "limit:*")
            server.ask("DEL", key)
            server.ask(spoil[0], key, *spoil[1:])
            verdicts = [await limiter.hit("key") for _ in range(LIMIT + 1)]
        assert [verdict.allowed for verdict in verdicts] == [True] * LIMIT + [False]
        assert {verdict.scope for verdict in verdicts} == {"shared"}

    async def test_a_lowered_limit_holds_at_once(self, server: Valkey) -> None:
        """After a start with a smaller limit, what it says is still enough to wait."""
        server.ask("FLUSHALL")
        clock = FakeClock()
        async with (
            limiting(server, clock=clock) as before,
            limiting(server, limit=2, clock=clock) as now,
        ):
            for _ in range(LIMIT):
                await before.hit("key")
                clock.now += 10
            verdict = await now.hit("key")
            assert (verdict.allowed, verdict.remaining, verdict.reset) == (False, 0, 40)
            clock.now += 40
            assert (await now.hit("key")).allowed

    async def test_names_keep_limits_apart(self, server: Valkey) -> None:
        """Two limits on one key, by different names, do not spend each other's allowance."""
        server.ask("FLUSHALL")
        async with limiting(server, name="a") as one, limiting(server, name="b") as other:
            for limiter in (one, other):
                assert (await limiter.hit("key")).remaining == LIMIT - 1

    async def test_each_worker_counts_alone_while_redis_is_away(self) -> None:
        """Without Redis the limit holds in each worker, and the verdict says so."""
        with valkey() as server:
            async with AsyncExitStack() as stack:
                workers = [await stack.enter_async_context(limiting(server)) for _ in range(2)]
                server.kill()
                for worker in workers:
                    verdicts = [await worker.hit("key") for _ in range(LIMIT + 1)]
                    assert [verdict.allowed for verdict in verdicts] == [True] * LIMIT + [False]
                    assert {verdict.scope for verdict in verdicts} == {"worker"}


@asynccontextmanager
async def limiting(
    server: Valkey, *, limit: int = LIMIT, window: int = WINDOW, **more: Any
) -> AsyncIterator[RedisLimiter]:
    """A worker's limiter, with a connection of its own."""
    async with open_redis(**server.address, patience=UNHURRIED) as link:
        yield RedisLimiter(link, limit, window, **more)


PROCESS = """
import asyncio, json, sys
from advanced.app.limits import RedisLimiter
from advanced.app.redis_link import Patience, open_redis

async def main():
    address, limit, window = map(json.loads, sys.argv[1:])
    async with open_redis(**address, patience=Patience(deadline=10, slow=10)) as link:
        limiter = RedisLimiter(link, limit, window)
        print("ready", flush=True)
        sys.stdin.readline()
        verdicts = await asyncio.gather(*(limiter.hit("key") for _ in range(100)))
    print([sum(v.allowed for v in verdicts), sum(v.scope == "shared" for v in verdicts)])

asyncio.run(main())
"""


async def test_the_headers_of_an_answer_and_of_a_refusal() -> None:
    """Structured fields of the draft on both; Retry-After on the refusal, never before `t`."""
    clock = FakeClock()
    limiter = MemoryLimiter(2, 60, clock=clock)
    assert limit_headers(await limiter.hit("key")) == {
        "RateLimit-Policy": '"default";q=2;w=60',
        "RateLimit": '"default";r=1;t=60',
    }
    clock.now += 12.25
    await limiter.hit("key")
    assert limit_headers(await limiter.hit("key"), "login") == {
        "RateLimit-Policy": '"login";q=2;w=60',
        "RateLimit": '"login";r=0;t=48',
        "Retry-After": "48",
    }


PROXIES = [ip_network(each) for each in ("10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "::1")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        # Nobody is believed who is not one of our proxies.
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("192.0.2.8", ["198.51.100.1"], "192.0.2.8"),
        # What our own proxy says is, and only its own word: the right-most.
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["10.0.0.1, 1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        # Through several of ours, and no further than the first stranger.
        ("10.1.2.3", ["1.1.1.1, 198.51.100.1, 192.0.2.7, 10.9.9.9"], "198.51.100.1"),
        ("10.1.2.3", ["10.4.4.4, 10.9.9.9"], "10.4.4.4"),
        # IPv6, with and without brackets, ports, zones; IPv4 in IPv6.
        ("::1", ["2001:db8:2::5"], "2001:db8:2::5"),
        ("2001:db8:1::9", ["[2001:db8:2::5]:4711"], "2001:db8:2::5"),
        ("10.1.2.3", ["fe80::1%evil"], "fe80::1"),
        ("10.1.2.3", ["2001:DB8:2:0::5"], "2001:db8:2::5"),
        ("::ffff:10.1.2.3", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.2.3", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ['"[2001:db8:2::5]"'], "2001:db8:2::5"),
        # What cannot be read is not guessed at: the proxy itself is limited.
        ("10.1.2.3", ["198.51.100.1, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1,"], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["010.0.0.1"], "10.1.2.3"),
        ("testclient", ["198.51.100.1"], "testclient"),
        (None, ["198.51.100.1"], "unknown"),
        ("", ["198.51.100.1"], "unknown"),
    ],
)
def test_who_it_is_that_asks(peer: str | None, forwarded_for: list[str], client: str) -> None:
    """The nearest address that is not one of our proxies; what strangers write does not count."""
    assert client_address(peer, forwarded_for, PROXIES) == client


def test_without_proxies_nothing_is_forwarded() -> None:
    """The default: the header means nothing."""
    assert client_address("127.0.0.1", ["198.51.100.1"], ()) == "127.0.0.1"


def test_an_ipv6_household_counts_as_one() -> None:
    """A customer's 2**64 addresses share a limit; IPv4 addresses do not."""
    assert household("2001:db8:2:3::5") == household("2001:db8:2:3:ffff::1") == "2001:db8:2:3::/64"
    assert household("2001:db8:2:4::5") != household("2001:db8:2:3::5")
    assert household("198.51.100.1") == "198.51.100.1"
    assert household("testclient") == "testclient"
