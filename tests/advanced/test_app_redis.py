"""Redis that fails under a running service: what it costs a client, and that it heals."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared.offline_model import OfflineModel, Scenario
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import Advanced, redis_settings, served_advanced
from tests.advanced.test_advanced_redis import FAULTS, PASSWORD, Fault, SlowPath
from tests.advanced.watching import becomes_true
from tests.serving import KEY
from tests.talking import PLAIN, STREAM, ask
from tests.valkey import Valkey, valkey

FIRST, LATER = 0.25, 0.05
"""Seconds: what Redis' failure may cost the first request, and 95 of 100 of those after it."""


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with valkey(PASSWORD) as running:
        yield running


@pytest.fixture(scope="module")
def service(
    checkout: Path, server: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Advanced]:
    """One worker with a Redis that has a password."""
    state = tmp_path_factory.mktemp("redis")
    with served_advanced(checkout, state, redis=False, **with_redis(server)) as service:  # type: ignore[arg-type]
        service.model.respond(Scenario("Good."))
        yield service


def with_redis(server: Valkey) -> dict[str, str]:
    return {"REDIS_ENABLED": "true", **redis_settings(server)}


class Visitor:
    """Asks questions that nobody asked before, and takes the time."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._asked = 0

    async def visit(self) -> float:
        self._asked += 1
        path = (PLAIN, STREAM)[self._asked % 2]
        before = time.monotonic()
        reply = await ask(self._client, f"{id(self)}, {self._asked}", path=path)
        took = time.monotonic() - before
        assert (reply.status, reply.text) == (200, "Good.")
        assert not reply.metadata["cached"]
        return took

    async def visits(self) -> list[float]:
        return sorted([await self.visit() for _ in range(40)])

    async def finds_the_cache(self) -> bool:
        """Whether an answer is kept: Redis is in use."""
        self._asked += 1
        replies = [await ask(self._client, f"{id(self)}, {self._asked}") for _ in range(2)]
        assert {reply.status for reply in replies} == {200}
        return bool(replies[1].metadata["cached"])


async def says_that_redis_is(client: httpx.AsyncClient, state: str) -> None:
    async def it_does() -> bool:
        response = await client.get("/health")
        assert response.status_code == 200
        known = response.json()
        assert known["degraded"] is (known["dependencies"]["redis"] == "down")
        return bool(known["dependencies"]["redis"] == state)

    await becomes_true(it_does)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_no_client_gets_an_error(service: Advanced, server: Valkey, fault: Fault) -> None:
    """The first waits at most 250 ms more, then 95 of 100 at most 50 ms; it heals by itself."""
    async with service.user() as client:
        visitor = Visitor(client)
        await becomes_true(visitor.finds_the_cache)
        usual = await visitor.visits()
        fault.strike(server)
        first = await visitor.visit()
        later = await visitor.visits()
        await says_that_redis_is(client, "down")
        fault.heal(server)
        await becomes_true(visitor.finds_the_cache)
    assert first <= usual[-1] + FIRST
    assert later[37] <= usual[37] + LATER


async def test_many_at_once_meet_a_hanging_redis(service: Advanced, server: Valkey) -> None:
    """A hundred equal questions and a hundred others: all are answered, none waits in line."""
    async with service.user() as client:
        visitor = Visitor(client)
        await becomes_true(visitor.finds_the_cache)
        asking = [asyncio.create_task(ask(client, f"equal, {n // 20}")) for n in range(100)]
        server.freeze()
        try:
            replies = await asyncio.gather(*asking)
        finally:
            server.thaw()
        await becomes_true(visitor.finds_the_cache)
    assert {(reply.status, reply.text) for reply in replies} == {(200, "Good.")}


async def test_a_redis_that_is_not_there_yet_and_then_is_slow(serve: Serve) -> None:
    """The service starts without it, uses it once it is there, and not while it is slow."""
    with valkey(PASSWORD) as server, OfflineModel(api_key=KEY) as model:
        model.respond(Scenario("Good."))
        server.kill()
        path = SlowPath(server.port)
        async with path.open() as port:
            settings = {**with_redis(server), "REDIS_PORT": str(port)}
            service = await asyncio.to_thread(serve, redis=False, model=model, **settings)
            async with await asyncio.to_thread(service.user) as client:
                visitor = Visitor(client)
                usual = await visitor.visits()
                await says_that_redis_is(client, "down")
                server.restart()
                await becomes_true(visitor.finds_the_cache)
                path.delay = 0.08
                first = await visitor.visit()
                later = await visitor.visits()
                path.delay = 0
                await becomes_true(visitor.finds_the_cache)
    assert first <= usual[-1] + FIRST
    assert later[37] <= usual[37] + LATER


async def test_a_redis_that_is_far_away_may_take_its_time(serve: Serve) -> None:
    """With REDIS_TIMEOUT a Redis is used whose every reply takes longer than usually is allowed."""
    with valkey(PASSWORD) as server, OfflineModel(api_key=KEY) as model:
        model.respond(Scenario("Good."))
        path = SlowPath(server.port)
        path.delay = 0.2
        async with path.open() as port:
            settings = {**with_redis(server), "REDIS_PORT": str(port), "REDIS_TIMEOUT": "9"}
            service = await asyncio.to_thread(serve, redis=False, model=model, **settings)
            async with await asyncio.to_thread(service.user) as client:
                assert await Visitor(client).finds_the_cache()
