"""Redis that fails, in every way that it can, under the cache and the limits together."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis

from advanced.app.cache import CacheService, cache_key
from advanced.app.flights import Flights
from advanced.app.limits import RedisLimiter, Verdict
from advanced.app.redis_link import Patience, RedisLink, open_redis
from advanced.embedded_redis import NoEmbeddedRedis, embedded_redis
from tests.serving import ROOT
from tests.valkey import Valkey, answers, valkey

PASSWORD = "hN3-for-tests"
UNHURRIED = Patience(deadline=10, slow=10)
"""For tests whose subject is not time, on machines that are busy."""

FIRST, LATER = 0.25, 0.05
"""Seconds: what Redis' failure may cost the first request, and 95 of 100 of those after it."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[Valkey]:
    with valkey(PASSWORD) as running:
        yield running


class SlowPath:
    """A way to Redis on which each reply takes a while longer."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._port = port

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]

    async def _serve(self, up: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:  # nobody is there
            return down.close()
        asking = asyncio.create_task(self._copy(up, writer, lambda: 0))
        await self._copy(reader, down, lambda: self.delay)
        asking.cancel()
        return None

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: Callable[[], float]
    ) -> None:
        try:
            while data := await source.read(65536):
                await asyncio.sleep(delay())
                sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()


def lock_out(server: Valkey) -> None:
    server.ask("CONFIG", "SET", "requirepass", "another")
    server.password = "another"
    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def let_in(server: Valkey) -> None:
    server.ask("CONFIG", "SET", "requirepass", PASSWORD)
    server.password = PASSWORD


def asking(key: str) -> Callable[[Redis], Awaitable[Any]]:
    return lambda client: client.get(key)


@dataclass(frozen=True)
class Fault:
    strike: Callable[[Valkey], Any]
    heal: Callable[[Valkey], Any]


FAULTS = {
    "killed": Fault(Valkey.kill, Valkey.restart),
    "hanging": Fault(Valkey.freeze, Valkey.thaw),
    "read-only": Fault(
        lambda server: server.ask("REPLICAOF", "127.0.0.1", "1"),
        lambda server: server.ask("REPLICAOF", "NO", "ONE"),
    ),
    "full": Fault(
        lambda server: server.ask("CONFIG", "SET", "maxmemory", 1),
        lambda server: server.ask("CONFIG", "SET", "maxmemory", 0),
    ),
    "wrong password": Fault(lock_out, let_in),
}


class Visitor:
    """Does what a request does with Redis: a limit, then a cached answer."""

    def __init__(self, link: RedisLink) -> None:
        self.limiter = RedisLimiter(link, 1_000_000, 60)
        self.flights = Flights(CacheService(link, ttl=60))
        self.asked = 0

    async def request(self) -> tuple[float, Verdict]:
        """Seconds, and what the limiter said. Every question is a new one."""
        self.asked += 1
        key = cache_key("visit", self.asked)

        async def work(say: Callable[[Any], None]) -> int:
            return self.asked

        started = time.perf_counter()
        verdict = await self.limiter.hit("visitor")
        async with self.flights.answer(key, work) as answer:
            assert await answer.result() == self.asked
        return time.perf_counter() - started, verdict

    async def see_it_fail(self) -> None:
        took, verdict = await self.request()
        assert took <= FIRST
        assert verdict.allowed
        assert verdict.scope == "worker"
        await self.go_without()

    async def go_without(self) -> None:
        times = sorted([(await self.request())[0] for _ in range(100)])
        assert times[94] <= LATER

    async def see_it_heal(self, link: RedisLink) -> None:
        async with asyncio.timeout(10):
            while link.away:
                await asyncio.sleep(0.02)
                await self.request()
        _, verdict = await self.request()
        assert verdict.scope == "shared"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_failing_redis_costs_one_request_a_moment_and_heals(
    server: Valkey, fault: Fault
) -> None:
    """No error; the first pays at most 250 ms, then 95 of 100 at most 50 ms; it heals by itself."""
    async with open_redis(**server.address) as link:
        visitor = Visitor(link)
        _, verdict = await visitor.request()
        assert verdict.scope == "shared"
        fault.strike(server)
        await visitor.see_it_fail()
        fault.heal(server)
        await visitor.see_it_heal(link)


async def test_a_slow_redis_is_not_waited_for_twice(server: Valkey) -> None:
    """Replies that still come, but late, open the breaker as well."""
    path = SlowPath(server.port)
    async with path.open() as port, open_redis(**{**server.address, "port": port}) as link:
        visitor = Visitor(link)
        await visitor.limiter.hit("visitor")
        path.delay = 0.08
        started = time.perf_counter()
        verdict = await visitor.limiter.hit("visitor")
        assert verdict.scope == "shared", "the reply was late, but it was there"
        assert link.away
        await visitor.request()
        assert time.perf_counter() - started <= FIRST
        await visitor.go_without()
        path.delay = 0
        await visitor.see_it_heal(link)


async def test_redis_is_not_blamed_for_our_own_delays(server: Valkey) -> None:
    """Replies that lie there unread, while this process is busy, leave the breaker closed."""
    async with open_redis(**server.address) as link:
        for _ in range(5):
            command = asyncio.create_task(link.run(lambda client: client.set("key", b"value")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251 - the very thing that nobody should do
            assert await command
            assert link.away is None


async def test_it_starts_without_redis_and_finds_it_later(server: Valkey) -> None:
    """A Redis that is not there yet at the start is used once it is."""
    server.kill()
    async with open_redis(**server.address) as link:
        assert link.away
        visitor = Visitor(link)
        await visitor.go_without()
        server.restart()
        await visitor.see_it_heal(link)


async def test_many_requests_at_once_wait_for_one_deadline(server: Valkey) -> None:
    """Two hundred requests meet a hanging Redis: each waits once, none in line behind another."""
    async with open_redis(**server.address) as link:
        visitors = [Visitor(link) for _ in range(200)]
        server.freeze()
        started = time.perf_counter()
        await asyncio.gather(*(visitor.limiter.hit("visitor") for visitor in visitors))
        assert time.perf_counter() - started <= 2 * FIRST  # one deadline, and 200 tasks of ours


class FlakyServer:
    """Says OK to everything, until it is told to hang; counts who waits for an answer then."""

    def __init__(self) -> None:
        self.hangs = False
        self.waiting = 0
        self.most = 0
        self.knocks = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536) and not self.hangs:
            writer.write(b"+OK\r\n")
        if self.hangs:
            self.knocks, self.waiting = self.knocks + 1, self.waiting + 1
            self.most = max(self.most, self.waiting)
            await reader.read()  # until the other side hangs up
            self.waiting -= 1
        writer.close()


async def test_one_prober_asks_whether_it_is_back() -> None:
    """While the breaker is open one prober knocks, and nobody else, however many asked at once."""
    server = FlakyServer()
    patience = Patience(deadline=0.1, slow=0.1, first_probe=0.01, last_probe=0.01)
    async with server.open() as port, open_redis("127.0.0.1", port, patience=patience) as link:
        assert await link.check()
        server.hangs = True
        await asyncio.gather(*(link.check() for _ in range(10)))
        assert link.away
        assert server.most == 10
        async with asyncio.timeout(20):
            while server.waiting:  # noqa: ASYNC110 - the first ten are still hanging up
                await asyncio.sleep(0)
            server.most, server.knocks = 0, 0
            while server.knocks < 4:
                assert not any(await asyncio.gather(*(link.check() for _ in range(50))))
                await asyncio.sleep(0.01)
    assert server.most == 1


async def test_something_else_than_redis_is_a_fault_like_others() -> None:
    """A server that speaks another protocol is away, not an error."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b":not a number\r\n*x\r\nHTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with open_redis("127.0.0.1", port) as link:
            assert link.away


async def test_a_cancelled_command_hands_its_reply_to_nobody(server: Valkey) -> None:
    """Whenever a caller leaves, the next one on that connection gets its own reply."""
    async with open_redis(**server.address, patience=UNHURRIED) as link:
        await link.run(
            lambda client: client.mset({f"key{number}": number for number in range(400)})
        )
        for number in range(400):
            leaver = asyncio.create_task(link.run(asking("key0")))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            leaver.cancel()
            assert await link.run(asking(f"key{number}")) == b"%d" % number
        assert link.away is None


async def test_it_hangs_up_in_time_on_a_hanging_redis(server: Valkey) -> None:
    """Shutting down does not wait for Redis longer than a request does."""
    async with open_redis(**server.address) as link:
        await link.check()
        server.freeze()
        unheard = asyncio.create_task(link.check())
        await asyncio.sleep(0)
        started = time.perf_counter()
    assert time.perf_counter() - started <= FIRST
    assert await unheard is False


async def test_a_health_check_notices(server: Valkey) -> None:
    """`check` asks Redis for a write: a read-only one is not well."""
    async with open_redis(**server.address) as link:
        assert await link.check()
        server.ask("REPLICAOF", "127.0.0.1", "1")
        assert not await link.check()
        assert link.away


class TestEmbedded:
    def test_it_is_for_us_alone(self) -> None:
        """It listens on loopback, keeps nothing on disk, and asks for a password of chance."""
        with valkey(PASSWORD) as server:
            assert server.ask("CONFIG", "GET", "save") == [b"save", b""]
            sockets = psutil.Process(server.pid).net_connections()
            heard = [each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN]
            assert heard == ["127.0.0.1"]
        with embedded_redis() as one, embedded_redis() as other:
            assert len(one.password) >= 24
            assert one.password != other.password

    def test_it_ends_with_the_block(self) -> None:
        """Neither the process nor its folder is left behind."""
        with embedded_redis() as running:
            process = psutil.Process(running.pid)
            folder = Path(process.cwd())
            assert folder.stat().st_mode & 0o077 == 0
        assert not process.is_running()
        assert not folder.exists()

    def test_it_ends_with_a_parent_that_was_killed(self) -> None:
        """`kill -9` of who started it leaves no server behind."""
        program = (
            "import time\nfrom advanced.embedded_redis import embedded_redis\n"
            "with embedded_redis() as running:\n"
            "    print(running.pid, running.port, flush=True)\n    time.sleep(600)\n"
        )
        with ExitStack() as stack:
            parent = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
            )
            assert parent.stdout
            pid, port = map(int, parent.stdout.readline().split())
            server = psutil.Process(pid)
            os.kill(parent.pid, signal.SIGKILL)
        assert psutil.wait_procs([server], timeout=10)[0], "it still runs"
        assert not answers(port)

    def test_a_hanging_one_ends_too(self) -> None:
        """A server that was stopped in a debugger, or in a test, does not stay for ever."""
        with embedded_redis() as running:
            os.kill(running.pid, signal.SIGSTOP)
        assert not psutil.pid_exists(running.pid)

    def test_a_port_that_is_taken_is_named(self) -> None:
        """Another server on the port is not taken for ours."""
        with (
            embedded_redis(password="") as other,
            pytest.raises(NoEmbeddedRedis, match=f"{other.port}"),
            embedded_redis(port=other.port),
        ):
            pass
