"""Rate limits over HTTP: whose requests count together, how many may pass, what they are told."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from shared.offline_model import Scenario
from tests.advanced.serving_advanced import LOGIN, PASSWORDS, Advanced, served_advanced
from tests.advanced.watching import one_client_a_worker
from tests.talking import EITHER_WAY, ask

LIMIT, WINDOW = 20, 60
SHORT_LIMIT, SHORT_WINDOW = 5, 1
SESSIONS = "/api/v1/sessions"
FORGED = {"Authorization": "Bearer forged.by.somebody"}


@pytest.fixture(scope="module")
def limited(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Advanced, dict[str, str]]]:
    """Two workers that let each user and address ask 20 times a minute, and tokens."""
    state = tmp_path_factory.mktemp("limited")
    with served_advanced(
        checkout,
        state,
        WORKERS="2",
        RATE_LIMIT_REQUESTS=str(LIMIT),
        RATE_LIMIT_WINDOW=str(WINDOW),
    ) as service:
        yield service, {name: service.log_in(name) for name in PASSWORDS}


@pytest.fixture
def service(limited: tuple[Advanced, dict[str, str]]) -> Advanced:
    """Nobody has asked anything yet."""
    service, _ = limited
    assert service.redis
    service.model.clear()
    service.redis.ask("FLUSHALL")
    return service


@pytest.fixture
def tokens(limited: tuple[Advanced, dict[str, str]]) -> dict[str, str]:
    return limited[1]


@pytest.fixture
async def carol(service: Advanced, tokens: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client(tokens["carol"]) as client:
        yield client


@pytest.fixture
async def nobody(service: Advanced) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client() as client:
        yield client


async def statuses(
    client: httpx.AsyncClient, count: int, path: str = SESSIONS, **headers: str
) -> list[int]:
    asking = [client.get(path, headers=headers) for _ in range(count)]
    return [response.status_code for response in await asyncio.gather(*asking)]


async def use_up(client: httpx.AsyncClient) -> None:
    assert 429 in await statuses(client, LIMIT + 1)


async def test_of_two_hundred_at_once_exactly_the_limit_gets_through(
    service: Advanced, tokens: dict[str, str]
) -> None:
    """Both workers count together, to the last one; another user has an allowance of their own."""
    async with one_client_a_worker(service, tokens["carol"]) as clients:
        found = [await statuses(client, 1) for client in clients]
        found += await asyncio.gather(*(statuses(client, 99) for client in clients))
        async with service.client(tokens["dave"]) as dave:
            others = await statuses(dave, LIMIT)
    assert sorted(status for each in found for status in each) == [200] * LIMIT + [429] * 180
    assert others == [200] * LIMIT


@EITHER_WAY
async def test_what_requests_are_told(
    service: Advanced, carol: httpx.AsyncClient, path: str
) -> None:
    """The draft's two fields on answers and refusals; Retry-After on refusals, which are errors."""
    service.model.respond(Scenario("Good."))
    first = await ask(carol, "hello", path=path)
    invalid = await carol.post(path, json={"query": ""})
    await use_up(carol)
    service.model.clear()
    refused = await ask(carol, "hello", path=path)
    for headers in (first.headers, refused.headers):
        assert headers["ratelimit-policy"] == f'"default";q={LIMIT};w={WINDOW}'
    assert re.fullmatch(rf'"default";r={LIMIT - 1};t=(5\d|60)', first.headers["ratelimit"])
    assert re.fullmatch(rf'"default";r={LIMIT - 2};t=(5\d|60)', invalid.headers["ratelimit"])
    assert (first.status, invalid.status_code) == (200, 422)
    assert "retry-after" not in first.headers
    assert (refused.status, refused.code) == (429, "rate_limited")
    wait = int(refused.headers["retry-after"])
    assert 1 <= wait <= WINDOW
    assert refused.headers["ratelimit"] == f'"default";r=0;t={wait}'
    assert service.model.call_count == 0


DISGUISES = [
    {},
    {"X-Forwarded-For": "198.51.100.7"},
    {"Forwarded": "for=198.51.100.7", "X-Real-IP": "198.51.100.7"},
    {"X-Forwarded-For": "127.0.0.1, 198.51.100.7", "X-Forwarded-Proto": "https"},
]


async def test_without_a_token_the_address_counts(
    nobody: httpx.AsyncClient, carol: httpx.AsyncClient
) -> None:
    """Refused tokens and logins share it, and what clients write about themselves is nothing."""
    forged = await statuses(nobody, LIMIT // 2, **FORGED)
    without = await statuses(nobody, LIMIT // 2 - 1)
    login = await nobody.post(LOGIN, data={"username": "carol", "password": "not hers"})
    assert {*forged, *without, login.status_code} == {401}
    right = {"username": "carol", "password": PASSWORDS["carol"]}
    for headers in DISGUISES:
        for response in (
            await nobody.get(SESSIONS, headers={**FORGED, **headers}),
            await nobody.post(LOGIN, data=right, headers=headers),
        ):
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
    assert await statuses(carol, 1) == [200], "a user does not pay for an address"


async def test_probes_are_exempt(nobody: httpx.AsyncClient) -> None:
    """Health, metrics and pages answer an address that has used up its allowance."""
    assert 429 in await statuses(nobody, LIMIT + 1)
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/", "/openapi.json"):
        assert await statuses(nobody, LIMIT + 1, path) == [200] * (LIMIT + 1)


async def test_stored_keys_name_nobody(service: Advanced, carol: httpx.AsyncClient) -> None:
    """Redis keeps digests, each for one window."""
    assert service.redis
    await statuses(carol, 3)
    [key] = service.redis.ask("KEYS", "limit:*")
    assert b"carol" not in key
    assert 0 < service.redis.ask("PTTL", key) <= WINDOW * 1000


# --- a short window, behind a proxy


@pytest.fixture(scope="module")
def proxied(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Advanced, str]]:
    """One worker, whose clients are all behind a proxy of ours on this machine, and a token."""
    state = tmp_path_factory.mktemp("proxied")
    with served_advanced(
        checkout,
        state,
        TRUSTED_PROXIES="127.0.0.1",
        RATE_LIMIT_REQUESTS=str(SHORT_LIMIT),
        RATE_LIMIT_WINDOW=str(SHORT_WINDOW),
    ) as service:
        yield service, service.log_in()


async def test_no_stretch_of_a_window_s_length_holds_more(proxied: tuple[Advanced, str]) -> None:
    """Asked without a pause for three windows: never more than the limit in any such stretch.

    The first of six came after it was sent, the last before it was answered: a second apart.
    """
    service, token = proxied
    spans: list[tuple[float, float]] = []
    begun = time.monotonic()
    async with service.client(token) as client:
        while (sent := time.monotonic()) - begun < 3 * SHORT_WINDOW:
            if (await client.get(SESSIONS)).status_code == 200:
                spans.append((sent, time.monotonic()))
    assert 2 * SHORT_LIMIT <= len(spans) <= 4 * SHORT_LIMIT
    for (first, _), (_, last) in zip(spans, spans[SHORT_LIMIT:], strict=False):
        assert last - first >= SHORT_WINDOW


async def test_retry_after_is_honest(proxied: tuple[Advanced, str]) -> None:
    """Who waits as long as they are told is let in."""
    service, token = proxied
    async with service.client(token) as client:
        async with asyncio.timeout(10):
            while (response := await client.get(SESSIONS)).status_code == 200:
                pass
        await asyncio.sleep(int(response.headers["retry-after"]))
        assert (await client.get(SESSIONS)).status_code == 200


async def test_a_proxy_of_ours_is_believed(proxied: tuple[Advanced, str]) -> None:
    """Behind it each address has its allowance, and a longer list of names is no other address."""
    service, _ = proxied

    async def asked(forwarded: str) -> list[int]:
        headers = {**FORGED, "X-Forwarded-For": forwarded}
        return await statuses(client, SHORT_LIMIT + 1, **headers)

    async with service.client() as client:
        assert sorted(await asked("198.51.100.1")) == [401] * SHORT_LIMIT + [429]
        assert sorted(await asked("198.51.100.2")) == [401] * SHORT_LIMIT + [429]
        before = time.monotonic()
        first = await asked("198.51.100.3")
        again = await asked("203.0.113.9, 198.51.100.3")
        assert time.monotonic() - before < SHORT_WINDOW, "too slow a machine to tell"
    assert sorted(first) == [401] * SHORT_LIMIT + [429]
    assert set(again) == {429}


async def test_limits_go_on_without_redis(proxied: tuple[Advanced, str]) -> None:
    """With Redis killed this worker counts by itself: no error, and no more than before."""
    service, token = proxied
    assert service.redis
    service.redis.kill()
    async with service.client(token) as client:
        await client.get(SESSIONS)  # notices
        before = time.monotonic()
        found = await statuses(client, 3 * SHORT_LIMIT)
        windows = 1 + (time.monotonic() - before) // SHORT_WINDOW
    assert set(found) == {200, 429}
    assert found.count(200) <= SHORT_LIMIT * windows
