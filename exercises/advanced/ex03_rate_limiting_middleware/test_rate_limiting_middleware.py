"""The graded suite of exercise 3: who may ask how often, however many replicas there are."""

import asyncio
import json
import math
import re
import secrets
import signal
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from random import Random
from socket import socket

import httpx
import jwt
import pytest

from grader.judge import STREAM, Client, check, only_until, request_bytes
from grader.judge.servers import Redis, private_folder
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario

CHEAP = "/api/v1/nothing-is-here"
"""The app answers 404, whoever asks: it costs next to nothing, and comes from behind the edge."""

SESSIONS = "/api/v1/sessions"
"""For users alone."""

PASSED, REFUSED = 404, 429
SLOW = 0.01
"""Tokens a second that come back while a test looks on: none."""

PATIENT = 10
"""Seconds to wait for Redis, where no test is about that: this machine may be busy."""

ISSUER, AUDIENCE = "a-course", "its-exercises"
PROXY_HERE = {"TRUSTED_PROXIES": "127.0.0.0/8"}
HERE = ["203.0.113.4"]

Limited = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def key() -> str:
    """What the service signs its tokens with."""
    return secrets.token_hex(64)


@pytest.fixture
def limited(service: Service, redis: Redis, key: str) -> Limited:
    """Serves it with Redis and users: `async with limited(burst=3, per_second=2) as client:`."""

    @asynccontextmanager
    async def serve(
        *, burst: int, per_second: float = SLOW, **settings: object
    ) -> AsyncIterator[Client]:
        usual: dict[str, object] = {
            **redis.settings,
            "RATE_LIMIT_BURST": burst,
            "RATE_LIMIT_PER_SECOND": per_second,
            "RATE_LIMIT_TIMEOUT": PATIENT,
            "DEMO_USERS": "false",
            "SECRET_KEY": key,
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
        }
        with users() as folder:
            async with service(
                forward=redis.forward, data=folder, **{**usual, **settings}
            ) as client:
                yield client

    return serve


@contextmanager
def users() -> Iterator[Path]:
    """A folder with three users, one of whom is called like an address. Their passwords fit
    nothing: tests make tokens."""
    with private_folder() as folder:
        folder.chmod(0o777)
        user = {"hash": f"$2b$04${'.' * 53}", "since": 0}
        (folder / "users.json").write_text(json.dumps(dict.fromkeys(["alice", "bob", *HERE], user)))
        yield folder


def token_of(user: str, key: str) -> dict[str, str]:
    """A header with a token such as the app makes, and which it takes if the key is its own."""
    now = int(time.time())
    claims = {
        "sub": user,
        "iss": ISSUER,
        "aud": AUDIENCE,
        "jti": secrets.token_hex(8),
        "iat": now - 60,
        "exp": now + 600,
    }
    return {"Authorization": f"Bearer {jwt.encode(claims, key, 'HS256')}"}


async def ask(client: Client, path: str = CHEAP, **headers: str) -> httpx.Response:
    return await client.get(path, headers=headers)


async def statuses(
    client: Client, times: int, path: str = CHEAP, headers: Mapping[str, str] | None = None
) -> list[int]:
    """One after the other."""
    return [(await client.get(path, headers=headers)).status_code for _ in range(times)]


async def at_once(*clients: Client, times: int) -> list[httpx.Response]:
    """Each client asks so many times, all at the same moment."""
    return await asyncio.gather(*(ask(client) for _ in range(times) for client in clients))


def passed(responses: Iterable[httpx.Response]) -> int:
    """How many got through; the others have to be refusals."""
    found = [response.status_code for response in responses]
    assert set(found) <= {PASSED, REFUSED}, (
        "a request should either reach the app or be refused with 429"
    )
    return found.count(PASSED)


def parameters(response: httpx.Response, field: str) -> dict[str, int]:
    """Of one of the two fields, such as {"r": 4, "t": 1}."""
    value = response.headers.get(field, "")
    assert re.fullmatch(r'"default"(;\s*[a-z]+=\d+)+', value), (
        f"counted requests should be answered with the header {field}, as the README has it"
    )
    return {name: int(number) for name, number in re.findall(r"([a-z]+)=(\d+)", value)}


def wait_of(response: httpx.Response) -> int:
    """Retry-After, in seconds."""
    value = response.headers.get("Retry-After", "")
    assert value.isdecimal(), "a refusal should have Retry-After, in whole seconds"
    return int(value)


async def uncounted(client: Client) -> float:
    page = await client.get("/metrics")
    assert page.status_code == 200, "the metrics should be readable at any time"
    found = re.search(r"^rate_limit_uncounted_total (\S+)$", page.text, re.MULTILINE)
    assert found, "the metrics should have rate_limit_uncounted_total"
    return float(found[1])


# --- the bucket


@check("headers")
async def test_headers(limited: Limited, rng: Random) -> None:
    """Every counted answer says what is left; a refusal is an ErrorResponse of the contract."""
    burst, request_id = rng.randint(2, 4), f"r-{rng.randrange(16**8):08x}"
    async with limited(burst=burst, per_second=0.04) as client:
        allowed = [await ask(client) for _ in range(burst)]
        refused = await ask(client, **{"X-Request-ID": request_id})
    assert [r.status_code for r in allowed] == [PASSED] * burst, (
        "as many requests as the bucket holds tokens should reach the app"
    )
    assert refused.status_code == REFUSED, "a request without a token should be refused with 429"
    for left, response in zip([*reversed(range(burst)), 0], [*allowed, refused], strict=True):
        assert parameters(response, "RateLimit-Policy") == {"q": burst, "w": burst * 25}, (
            "RateLimit-Policy should have the bucket's size, and the seconds in which it fills"
        )
        limit = parameters(response, "RateLimit")
        assert limit.get("r") == left, "RateLimit should say how many tokens are left"
        assert 1 <= limit.get("t", 0) <= 25, "RateLimit should say when there is one more token"
        assert "X-Request-ID" in response.headers, "every answer has an X-Request-ID"
    assert not any("Retry-After" in response.headers for response in allowed), (
        "Retry-After is for refusals"
    )
    assert wait_of(refused) == limit["t"], "Retry-After should agree with RateLimit"
    body = json.loads(refused.content) if is_json(refused) else {}
    assert set(body) == {"error", "detail", "code"}, "a refusal's body should be an ErrorResponse"
    assert body["code"] == "rate_limited", "the refusal's code should be rate_limited"
    assert refused.headers["X-Request-ID"] == request_id, (
        "a refusal should have the request's own X-Request-ID, as other answers have"
    )
    for name in ("X-Process-Time", "X-Content-Type-Options", "Cache-Control"):
        assert name in refused.headers, f"a refusal should have {name}, as every answer has"


def is_json(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type")).startswith("application/json")


@check("retry_after")
async def test_retry_after(limited: Limited) -> None:
    """It is the time until there is one token, in whole seconds, rounded up."""
    async with limited(burst=3, per_second=0.37) as client:
        begun = time.monotonic()
        first = await statuses(client, 3)
        refused = await ask(client)
        spent = time.monotonic()
        with only_until(begun + 0.65):
            assert first == [PASSED] * 3, "the bucket's tokens should be let through"
            assert refused.status_code == REFUSED, "without a token, there should be a refusal"
            assert wait_of(refused) == 3, (
                "when the next token is 2.7 seconds away, Retry-After should be 3"
            )
        window = re.search(r"w=(\d+)", refused.headers.get("RateLimit-Policy", "w=9"))
        assert window, "RateLimit-Policy should have w"
        assert window[1] == "9", "when a bucket fills in 8.1 seconds, w should be 9"
        await asyncio.sleep(spent + 0.75 - time.monotonic())
        later = await ask(client)
        with only_until(begun + 1.6):
            assert later.status_code == REFUSED, "before a token is back, there should be a refusal"
            assert wait_of(later) == 2, (
                "when the same token is less than 2 seconds away, Retry-After should be 2"
            )


@check("refills_evenly")
async def test_refills_evenly(limited: Limited) -> None:
    """Tokens come back one by one, and knocking in vain does not keep them away."""
    burst, per_second = 3, 2.0
    async with limited(burst=burst, per_second=per_second) as client:
        begun = time.monotonic()
        first = await statuses(client, burst)
        spent = time.monotonic()
        knocked = await statuses(client, 2)
        with only_until(begun + 0.9 / per_second):
            assert first == [PASSED] * burst, "the bucket's tokens should be let through"
            assert knocked == [REFUSED] * 2, "after them, requests should be refused"
        await asyncio.sleep(spent + 1.1 / per_second - time.monotonic())
        later = await statuses(client, burst + 1)
        came_back = (time.monotonic() - begun) * per_second
    assert later[0] == PASSED, (
        "a token should be back after the time that one takes, whoever has knocked meanwhile"
    )
    let_through = [*first, *knocked, *later].count(PASSED)
    assert let_through <= burst + math.floor(came_back), (
        "in any stretch, no more should get through than the bucket holds and than came back"
    )


@check("waiting")
async def test_waiting(limited: Limited, redis: Redis) -> None:
    """Who waits as told gets through; a full bucket does not get fuller, and is forgotten."""
    async with limited(burst=1, per_second=2) as client:
        replies = [await ask(client)]
        assert replies[0].status_code == PASSED, "the bucket's token should be let through"
        while replies[-1].status_code == PASSED and len(replies) < 6:
            replies.append(await ask(client))
        assert replies[-1].status_code == REFUSED, "without a token, there should be a refusal"
        for name in names(redis):
            kept = int(redis.command("PTTL", name)[1:])
            assert kept == GONE or 0 <= kept <= 1500, (
                "what Redis keeps of a bucket should expire by itself, when the bucket is full"
            )
        await asyncio.sleep(min(2, wait_of(replies[-1])))
        begun = time.monotonic()
        again = (await statuses(client, 3)).count(PASSED)
        came_back = math.floor(2 * (time.monotonic() - begun))
    assert again, "after waiting as long as Retry-After said, a request should get through"
    assert again <= 1 + came_back, (
        "however long a caller was away, the bucket should hold no more than fits in"
    )


@check("waiting")
async def test_forgets(limited: Limited, redis: Redis) -> None:
    """A bucket that lacks one token is forgotten as soon as that one is back."""
    async with limited(burst=4, per_second=0.04) as client:
        assert await statuses(client, 1) == [PASSED], "a full bucket should let through"
        kept = [int(redis.command("PTTL", name)[1:]) for name in names(redis)]
    assert kept, "Redis should hold the bucket"
    assert all(0 <= left <= 26_000 for left in kept), (
        "a bucket that is full again in 25 seconds should be gone from Redis a second later"
    )


GONE = -2
"""What PTTL says of a key that is not there any more."""


def names(redis: Redis) -> list[str]:
    """Of everything that Redis holds."""
    return redis.command("KEYS", "*").decode().split("\r\n")[2::2]


@check("at_once")
async def test_at_once(limited: Limited, redis: Redis) -> None:
    """Of 200 requests at once, exactly as many get through as there are tokens."""
    async with limited(burst=20, RATE_LIMIT_TIMEOUT=60) as client:
        redis.freeze()  # until all of them wait for it
        with ExitStack() as connections:
            sent = await asyncio.to_thread(send, client, 200, connections)
            redis.thaw()
            found = await asyncio.to_thread(lambda: [status_on(each) for each in sent])
        left = await statuses(client, 1)
    assert set(found) == {PASSED, REFUSED}, (
        "each of 200 requests at once should reach the app or be refused with 429"
    )
    assert found.count(PASSED) == 20, (
        "of 200 requests at once, exactly as many as there are tokens should get through"
    )
    assert left == [REFUSED], "after them, the bucket should be empty"


def send(client: Client, times: int, open_: ExitStack) -> list[socket]:
    """A request on each of so many connections, all of which the server has read."""
    *connections, last = [open_.enter_context(client.connect()) for _ in range(times + 1)]
    for connection in connections:
        connection.sendall(request_bytes(method="GET", path=CHEAP))
    last.sendall(b"this is no HTTP\r\n\r\n")  # which the server refuses by itself
    last.recv(1)
    return connections


def status_on(connection: socket) -> int:
    return int(connection.recv(12)[9:] or 0)


@check("replicas")
async def test_replicas(limited: Limited) -> None:
    """Two replicas, one of them with clocks that are an hour wrong, share each bucket."""
    async with limited(burst=20) as one, limited(burst=20, CLOCKS_AHEAD=3600) as other:
        through = passed(await at_once(one, other, times=5))
        assert through == 10, "as long as the bucket holds tokens, both replicas let through"
        through += passed(await at_once(one, other, times=50))
        assert through == 20, (
            "however many replicas there are, and whatever their clocks say, no more should get"
            " through than one bucket holds"
        )
        assert await statuses(one, 1) + await statuses(other, 1) == [REFUSED] * 2, (
            "a bucket that is empty should be empty for every replica"
        )


# --- who pays


@check("verified_user")
async def test_verified_user(limited: Limited, key: str) -> None:
    """A user whose token holds has a bucket of their own; whoever forges one spends theirs."""
    alice, bob = token_of("alice", key), token_of("bob", key)
    async with limited(burst=2, **PROXY_HERE) as client:

        async def asked_by(token: Mapping[str, str], addresses: Sequence[str] = HERE) -> list[int]:
            return [
                (await ask(client, SESSIONS, **token, **{"X-Forwarded-For": address})).status_code
                for address in addresses
            ]

        assert await asked_by(alice, ["203.0.113.1", "203.0.113.2", "203.0.113.3"]) == [
            *(200, 200, REFUSED)
        ], "a user should have one bucket, wherever the requests come from"
        forged = [token_of(name, secrets.token_hex(64)) for name in ("bob", "carol", "dave")]
        found = [await asked_by(token) for token in forged]
        assert found == [[401], [401], [REFUSED]], (
            "whatever name a forged token has, its address should pay"
        )
        assert await asked_by(bob, HERE * 3) == [200, 200, REFUSED], (
            "neither another user nor a forged token should have spent a user's tokens"
        )
        assert await asked_by(token_of(HERE[0], key)) == [200], (
            "a user who is called like an address should not share that address's bucket"
        )


@check("address")
async def test_address(limited: Limited) -> None:
    """Without a user the address pays; what a client writes about itself changes nothing."""
    async with limited(burst=3) as client:
        found = [
            (await ask(client, **headers)).status_code
            for headers in (
                {"X-Forwarded-For": "203.0.113.1"},
                {"X-Forwarded-For": "203.0.113.2, 203.0.113.3"},
                {"X-Real-IP": "203.0.113.4", "Forwarded": "for=203.0.113.4"},
                {"X-Forwarded-For": "203.0.113.5"},
                {"X-Forwarded-For": "127.0.0.1, 203.0.113.6"},
                {"X-Real-IP": "203.0.113.7"},
            )
        ]
    assert found == [PASSED] * 3 + [REFUSED] * 3, (
        "nobody should get another bucket by writing another address into a header"
    )


@check("trusted_proxy")
async def test_trusted_proxy(limited: Limited) -> None:
    """Behind a trusted proxy, the address that it has seen is whose bucket pays."""
    async with limited(burst=2, **PROXY_HERE) as client:

        async def through_the_proxy(*forwarded: str) -> list[int]:
            """Where a value has several lines, the header comes as often."""
            lines = ([("X-Forwarded-For", line) for line in v.split("\n")] for v in forwarded)
            return [(await client.get(CHEAP, headers=each)).status_code for each in lines]

        assert await through_the_proxy(*["203.0.113.1"] * 3) == [PASSED, PASSED, REFUSED], (
            "a client behind a trusted proxy should have a bucket"
        )
        assert await through_the_proxy("203.0.113.2") == [PASSED], (
            "clients behind one trusted proxy should have a bucket each"
        )
        assert await through_the_proxy(
            "198.51.100.1, 203.0.113.2", "198.51.100.2\n203.0.113.2, 127.0.0.2"
        ) == [PASSED, REFUSED], (
            "what stands before the address that a trusted proxy has seen, in the same header or in"
            " one of the same name, was written by anybody"
        )
        assert await through_the_proxy("2001:db8::1", "2001:db8::2", "2001:db8::3:4") == [
            *(PASSED, PASSED, REFUSED)
        ], "the addresses of one IPv6 network of 64 bits are one caller's"


# --- what is none of its business


@check("untouched")
async def test_untouched(limited: Limited, model: OfflineModel, key: str) -> None:
    """Streams flow, clients that leave are noticed, WebSockets and the app's end are the app's."""
    words = ["One ", "two ", "three."]
    model.enqueue(Scenario(pieces=words, hang_after=1), Scenario(pieces=words))
    async with limited(burst=2) as client:
        client.headers.update(token_of("alice", key))
        assert b"One" in await first_words(client), (
            "a stream's first words should be sent on while the model still writes"
        )
        await model.wait_for_async(lambda model: model.calls[0].outcome == "cancelled")
        whole = await client.ask("hello", path=STREAM)
        assert whole.text == "".join(words), "a stream should come through as it was sent"
        refused = await client.post(STREAM, json={"query": "hello"})
        assert refused.status_code == REFUSED, (
            "a stream should spend a token, and without one be refused before it begins"
        )
        assert model.call_count == 2, "a refused request should not reach the model"
        assert await asyncio.to_thread(handshake, client) == 101, (
            "a WebSocket is no request: it should be opened as if nobody counted"
        )
        client.signal(signal.SIGTERM)
        await everything_printed(client)
        assert "Application shutdown complete" in client.output, (
            "the app should be told that it ends, as it was told that it begins"
        )


async def first_words(client: Client) -> bytes:
    """Of a stream that is left once they are there; nothing if they do not come."""
    try:
        async with (
            asyncio.timeout(5),
            client.stream("POST", STREAM, json={"query": "hello"}) as response,
        ):
            assert response.status_code == 200, "a stream should be answered"
            return await anext(response.aiter_raw())
    except TimeoutError:
        return b""


def handshake(client: Client) -> int:
    """The status with which a WebSocket is answered."""
    wanted = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455's own
    }
    with client.connect() as connection:
        connection.sendall(request_bytes(method="GET", path="/live", headers=wanted))
        return status_on(connection)


async def everything_printed(client: Client) -> None:
    """What it says last of all comes after everything else."""
    for _ in range(500):
        if "Finished server process" in client.output:
            break
        await asyncio.sleep(0.01)


@check("health_exempt")
async def test_health_exempt(limited: Limited) -> None:
    """Probes and the metrics spend nothing, and are never refused; what resembles them is."""
    probes = ("/health", "/health/live", "/health/ready", "/metrics")
    async with limited(burst=2) as client:
        before = [await statuses(client, 1, path) for path in probes]
        spent = [*await statuses(client, 2, "/healthy"), *await statuses(client, 1, "/metrics/x")]
        after = [await statuses(client, 2, path) for path in probes]
    assert before == [[200]] * 4, "health checks and the metrics should be answered"
    assert spent == [PASSED, PASSED, REFUSED], (
        "health checks and the metrics should cost nothing, and every other path a token"
    )
    assert after == [[200, 200]] * 4, (
        "health checks and the metrics should be answered to an address without a token, too"
    )


# --- Redis's death


@check("fails_open")
async def test_fails_open(limited: Limited, redis: Redis) -> None:
    """When Redis refuses or is gone, requests get through uncounted, and the metric says so."""
    async with limited(burst=1, RATE_LIMIT_PAUSE=0.01) as client:
        assert await statuses(client, 2) == [PASSED, REFUSED], "with Redis, one token is one token"
        assert await uncounted(client) == 0, "the metric counts only what nobody has counted"
        redis.command("ACL", "SETUSER", "default", "-@all")
        unwilling = await statuses(client, 2)
        told = await ask(client)
        nothing_is_told(told)
        redis.stop()
        gone = await statuses(client, 3)
        missed = await uncounted(client)
    unwilling.append(told.status_code)
    assert unwilling == [PASSED] * 3, "when Redis answers with errors, requests should get through"
    assert gone == [PASSED] * 3, "when Redis is gone, requests should get through"
    assert missed == len(unwilling + gone), (
        "rate_limit_uncounted_total should count every request that got through uncounted"
    )


def nothing_is_told(answer: httpx.Response) -> None:
    assert not {"ratelimit", "ratelimit-policy"} & {*answer.headers}, (
        "when nobody has counted, an answer should have neither RateLimit nor RateLimit-Policy"
    )


@check("hanging_redis")
async def test_hanging_redis(limited: Limited, redis: Redis) -> None:
    """A Redis that says nothing costs one short wait, and then nobody waits for it."""
    async with limited(burst=1, RATE_LIMIT_TIMEOUT=0.25, RATE_LIMIT_PAUSE=60) as client:
        begun = time.monotonic()
        counted = await statuses(client, 2)
        with only_until(begun + 0.25):
            assert counted == [PASSED, REFUSED], "with Redis, one token is one token"
        redis.freeze()
        first = await within(1.5, statuses(client, 1))
        assert first == [PASSED], (
            "when Redis hangs, a request should get through after RATE_LIMIT_TIMEOUT"
        )
        others = await within(4, statuses(client, 20))
        assert others == [PASSED] * 20, (
            "once Redis hangs, nobody should wait for it until RATE_LIMIT_PAUSE is over"
        )
        nothing_is_told(await ask(client))
        await asyncio.sleep(0.3)
        redis.thaw()
        assert await statuses(client, 1) == [PASSED], (
            "until RATE_LIMIT_PAUSE is over, nobody should ask Redis, whether it is back or not"
        )
        assert await uncounted(client) == 23, (
            "rate_limit_uncounted_total should count every request that got through uncounted"
        )


async def within(seconds: float, asking: Awaitable[list[int]]) -> list[int]:
    """What came in time; nothing if it is late."""
    try:
        async with asyncio.timeout(seconds):
            return await asking
    except TimeoutError:
        return []


@check("limits_again")
async def test_limits_again(limited: Limited, redis: Redis) -> None:
    """A service that started without Redis counts as soon as Redis is there, and is asked again."""
    redis.stop()
    async with limited(burst=1, RATE_LIMIT_TIMEOUT=0.5, RATE_LIMIT_PAUSE=0.2) as client:
        without = await statuses(client, 3)
        assert without == [PASSED] * 3, "the service should start and answer without Redis"
        redis.start()
        for _ in range(100):
            found = await statuses(client, 1)
            if found != [PASSED]:
                break
            await asyncio.sleep(0.03)
    assert found == [REFUSED], (
        "soon after Redis is back, requests beyond the bucket's tokens should be refused again"
    )
