"""Probes: what they say, how little they cost, and that nothing keeps them waiting."""

import asyncio
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.advanced.serving_advanced import Advanced, served_advanced
from tests.advanced.watching import becomes_true
from tests.talking import ask

PROBES = ("/health", "/health/ready", "/health/live")
ALL_UP = {"session_store": "up", "redis": "up", "model": "up"}
PROMPT = 0.9
"""Seconds: orchestrators give a probe one second, if nobody tells them otherwise."""


@pytest.fixture(scope="module")
def both(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Advanced, str]]:
    """A service that lets each user and address ask once in an hour, and a user's token."""
    state = tmp_path_factory.mktemp("health")
    with served_advanced(
        checkout, state, RATE_LIMIT_REQUESTS="1", RATE_LIMIT_WINDOW="3600"
    ) as service:
        yield service, service.log_in()


@pytest.fixture
def service(both: tuple[Advanced, str]) -> Advanced:
    return both[0]


async def see(client: httpx.AsyncClient, **states: str) -> httpx.Response:
    """The first answer of `/health` that has these states; every one before comes promptly."""
    async with asyncio.timeout(10):
        while True:
            before = time.monotonic()
            response = await client.get("/health")
            assert time.monotonic() - before < PROMPT
            known = response.json().get("dependencies", {})
            if response.status_code == 200 and known == {**ALL_UP, **states}:
                return response
            await asyncio.sleep(0.05)


async def test_what_probes_say(service: Advanced) -> None:
    """All is well: `/health` and `/health/ready` name what they know, `/health/live` lives."""
    async with service.client() as client:
        full = {"status": "healthy", "dependencies": ALL_UP, "degraded": False}
        await see(client)
        bodies = [(await client.get(path)).json() for path in PROBES]
    assert bodies == [full, full, {"status": "healthy"}]


async def test_probes_are_never_limited_and_ask_seldom(service: Advanced) -> None:
    """200 at once, from an address that has used up its allowance, cost Redis a write or two."""
    assert service.redis
    async with service.client() as client:
        refused = [(await client.get("/api/v1/sessions")).status_code for _ in range(2)]
        service.redis.ask("CONFIG", "RESETSTAT")
        before = time.monotonic()
        replies = await asyncio.gather(*(client.get(path) for path in PROBES[:2] * 100))
        took = time.monotonic() - before
    writes = service.redis.ask("INFO", "commandstats").get("cmdstat_set", {}).get("calls", 0)
    assert refused[1] == 429
    assert {reply.status_code for reply in replies} == {200}
    assert not any("ratelimit" in reply.headers for reply in replies)
    assert writes <= 1 + took / 2


@contextmanager
def model_hangs(service: Advanced) -> Iterator[None]:
    """Somebody takes the connection and says nothing."""
    service.model.stop()
    try:
        with socket.create_server(("127.0.0.1", service.model.port)):
            yield
    finally:
        service.model.start()


@contextmanager
def redis_hangs(service: Advanced) -> Iterator[None]:
    assert service.redis
    service.redis.freeze()
    try:
        yield
    finally:
        service.redis.thaw()


@pytest.mark.parametrize(("fault", "down"), [(model_hangs, "model"), (redis_hangs, "redis")])
async def test_a_service_that_does_without_says_so(
    service: Advanced, fault: Callable[[Advanced], Any], down: str
) -> None:
    """The model or Redis hanging: 200 all the same, degraded, named, and prompt."""
    async with service.client() as client:
        await see(client)
        with fault(service):
            response = await see(client, **{down: "down"})
            ready = await client.get("/health/ready")
        assert response.json()["degraded"] is True
        assert ready.status_code == 200
        assert (await see(client)).json()["degraded"] is False


async def test_without_its_sessions_a_service_is_not_ready(both: tuple[Advanced, str]) -> None:
    """503, an ErrorResponse with Retry-After; it lives, and is ready again when they are back."""
    service, token = both
    with closing(sqlite3.connect(service.state / "sessions.db")) as file:
        async with service.client(token) as client:
            await see(client)
            file.execute("ALTER TABLE sessions RENAME TO away")
            file.commit()
            try:

                async def is_not_ready() -> bool:
                    return (await client.get("/health/ready")).status_code == 503

                await becomes_true(is_not_ready)
                refused = [await client.get(path) for path in PROBES[:2]]
                live = await client.get("/health/live")
                reply = await ask(client, "hello")
            finally:
                file.execute("ALTER TABLE away RENAME TO sessions")
                file.commit()
            await see(client)
    for response in refused:
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert set(response.json()) == {"error", "detail", "code"}
        assert response.json()["code"] == "not_ready"
    assert live.status_code == 200
    assert (reply.status, reply.code) == (503, "session_store_unavailable")
