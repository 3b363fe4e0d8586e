"""The graded suite of the advanced lab: a service ready for production, seen from outside."""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from grader.judge import PLAIN, STREAM, Client, Reply, arriving, check, read_reply
from grader.judge.servers import Redis
from grader.judge.service import Service
from shared.offline_model import Call, OfflineModel, Scenario, ToolCall

PATIENCE = 8.0
"""Seconds that something may take which a right answer does at once; a machine may be busy."""

ERROR = {"error", "detail", "code"}
LOGIN, LOGOUT, SESSIONS = "/api/v1/auth/login", "/api/v1/auth/logout", "/api/v1/sessions"
LIVE = "/health/live"

PASSWORDS = {"carol": "carols-own-password", "dave": "daves-own-password"}
"""The users of every service. Their hashes are cheap, so that logging in costs milliseconds."""

COSTLY = "$2b$13$zTTYfk9JRPClg/cJa0038OFTYkTtXfY1nIXTcBDk2yWf..8Ty.T6q"
"""A hash of `erins-own-password`; to check it takes half a second and more."""

RATHER_COSTLY = "$2b$11$ipmVP98ruYpfNZuaVBdWNuHOxuqK7ak8Bu5pyXV7MfwDln3mhk1gy"
"""Of `franks-own-password`: a tenth of a second and more, in which others can come and wait."""

ASKED = 3.0
"""Seconds until a service knows how its dependencies are, on a busy machine."""

BCRYPT = 0.05
"""Seconds that bcrypt takes at least at a cost that protects anybody; all else takes a few ms."""

ENOUGH = 8
"""Requests that are answered while a password is checked; one that blocks lets a few slip in."""


# --- a service, and who uses it


@dataclass
class World:
    """Starts the submission, with a folder, a key and users of its own."""

    service: Service
    home: Path
    key: str
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: int = 0

    @asynccontextmanager
    async def __call__(
        self, redis: Redis | None = None, /, **settings: object
    ) -> AsyncIterator[Client]:
        """Served until the block is left; it finds what it left behind the last time."""
        self.open_up()
        forward = redis.forward if redis else {}
        where = redis.settings if redis else {"REDIS_ENABLED": "false"}
        usual = {**self.usual, **where, **settings}
        async with self.service(data=self.home, forward=forward, **usual) as client:
            yield client

    @asynccontextmanager
    async def dotenv(self, text: str) -> AsyncIterator[None]:
        """With a .env where the service is served from. Other checks may be served from there at
        the same time: it has to be about what they do not look at."""
        path = self.service.place.workspace / ".env"
        path.write_text(text)
        path.chmod(0o644)
        try:
            yield
        finally:
            path.unlink()

    async def refuses(self, **settings: object) -> str:
        """What it printed. Its state is its own: what another start left there is no reason."""
        self.refusals += 1
        state = f"{{data}}/state-{self.refusals}"
        settings = {**self.usual, "STATE_DIR": state, **settings}
        return await self.service.refuses(data=self.home, **settings)

    @property
    def usual(self) -> dict[str, object]:
        return {
            "SECRET_KEY": self.key,
            "STATE_DIR": "{data}/state",
            "USERS_FILE": "{data}/users.json",
            "DEMO_USERS": "false",
            "RATE_LIMIT_REQUESTS": 1_000_000,
            "REDIS_TIMEOUT": PATIENCE,  # a machine may be busy, and Redis is not to blame
        }

    def set_user(self, name: str, password: str, since: int = 0) -> None:
        """As `make user` does, for a service that may be running."""
        digest = base64.b64encode(hashlib.sha256(password.encode()).digest())
        hashed = bcrypt.hashpw(digest, bcrypt.gensalt(4)).decode()
        self.users[name] = {"hash": hashed, "since": since}
        self.write_users()

    def write_users(self) -> None:
        new = self.home / "users.new"
        new.write_text(json.dumps(self.users))
        new.chmod(0o644)
        new.replace(self.home / "users.json")

    def open_up(self) -> None:
        """It may be served as somebody else this time, who may write what the last one made."""
        for path in self.home.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)

    def forged(self, claims: Mapping[str, Any], **how: Any) -> str:
        """A token as the service should make it, unless told otherwise."""
        key, algorithm = how.get("key", self.key), how.get("algorithm", "HS256")
        head = as_part({"alg": algorithm, "typ": "JWT"})
        body = f"{head}.{as_part(claims)}"
        kind = algorithm.replace("HS", "sha")
        signature = b"" if algorithm == "none" else hmac.digest(key.encode(), body.encode(), kind)
        return f"{body}.{as_base64(signature)}"


@pytest.fixture
def world(service: Service, rng: random.Random) -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="lab-"))
    world = World(service, home, f"{rng.getrandbits(512):0128x}")
    for name, password in PASSWORDS.items():
        world.set_user(name, password)
    yield world
    shutil.rmtree(home, ignore_errors=True)


def as_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_part(data: Mapping[str, Any]) -> str:
    return as_base64(json.dumps(data).encode())


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, believed or not."""
    parts = token.split(".")
    assert len(parts) == 3, "a token should be a JSON Web Token: three parts with dots between them"
    payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
    return dict(json.loads(payload))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def try_login(client: Client, name: str, password: str, path: str = LOGIN) -> httpx.Response:
    return await client.post(path, data={"username": name, "password": password})


async def log_in(client: Client, name: str = "carol", path: str = LOGIN) -> str:
    """A new token."""
    response = await try_login(client, name, PASSWORDS[name], path)
    assert response.status_code == 200, "a right password should be answered with a token"
    return str(response.json()["access_token"])


async def ask(
    client: Client,
    token: str,
    query: str,
    session_id: str | None = None,
    path: str = PLAIN,
    **more: Any,
) -> Reply:
    """One turn of a user, to its end, plain or streamed."""
    body = {"query": query, "session_id": session_id, **more}
    async with client.stream("POST", path, json=body, headers=bearer(token)) as response:
        return await read_reply(response)


async def answered(client: Client, token: str, query: str = "hello", **more: Any) -> Reply:
    """The same, for what has to be answered."""
    reply = await ask(client, token, query, **more)
    assert reply.status == 200, "a question of somebody who is logged in should be answered"
    return reply


async def in_time(waiting: Awaitable[Any], promise: str) -> Any:
    """What comes of it. AssertionError with the promise if nothing does."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await waiting
    except TimeoutError:
        raise AssertionError(promise) from None


async def becomes(condition: Callable[[], Awaitable[bool]], promise: str) -> None:
    """Wait for what is bound to happen soon. AssertionError with the promise if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, promise
        await asyncio.sleep(0.02)


async def seen(
    model: OfflineModel, predicate: Callable[[OfflineModel], bool], promise: str
) -> None:
    """AssertionError with the promise if the model does not see it."""
    try:
        await model.wait_for_async(predicate, PATIENCE)
    except TimeoutError:
        raise AssertionError(promise) from None


async def left(task: asyncio.Task[Any]) -> None:
    """The client of this request goes away."""
    task.cancel()
    await asyncio.wait([task])


def refused(response: httpx.Response, status: int, code: str, what: str) -> None:
    """Whether it is the ErrorResponse that was promised."""
    assert response.status_code == status, f"{what} should be refused with {status}"
    assert set(response.json()) == ERROR, f"{what} should be refused with an ErrorResponse"
    assert response.json()["code"] == code, f"{what} should be refused with the code {code}"


def unauthorized(response: httpx.Response, code: str, what: str) -> None:
    refused(response, 401, code, what)
    challenge = response.headers.get("www-authenticate", "")
    assert challenge.startswith("Bearer"), f"{what} should be answered with WWW-Authenticate"


def some_words(rng: random.Random, count: int = 3) -> str:
    return " ".join("".join(rng.choices("abcdefghij", k=8)) for _ in range(count))


def echo(call: Call) -> Scenario:
    return Scenario(f"You said {call.messages[-1]['content']}.")


class Held:
    """A model that says something, and goes on only when it may: an answer that is under way.

    Until then it says nothing to anybody; a service that has just asked how it is does not ask.
    """

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def __call__(self, call: Call) -> Scenario:
        if "ask_analyst" in call.tool_names and not self.may_go_on.is_set():
            task = ToolCall("ask_analyst", {"task": "2 + 2"})
            return Scenario(tool_calls=[task], preamble="Let me see. ")
        self.may_go_on.wait(PATIENCE)
        return Scenario("It is 4.")


# --- configuration


@check("reads_settings")
async def test_reads_settings(world: World, model: OfflineModel, rng: random.Random) -> None:
    """Each setting has the effect that it promises; an empty one counts as not set."""
    model.respond(Scenario("Good."))
    minutes, name = rng.randint(2, 90), rng.choice(["offline-assistant", "gpt-4.1-mini"])
    origin, title = "https://course.example", some_words(rng)
    settings = {
        "SECRET_KEY": world.key[:32],  # as long as HS256 needs it, and no longer
        "API_PREFIX": "/agent",
        "API_TITLE": title,
        "ACCESS_TOKEN_EXPIRE_MINUTES": minutes,
        "OPENAI_MODEL": name,
        "OPENAI_MAX_TOKENS": "",
        "CORS_ORIGINS": f"https://other.example, {origin}",
        "CORS_ALLOW_CREDENTIALS": "true",
        "ENABLE_METRICS": "false",
        "RATE_LIMIT_REQUESTS": 6,
        "MAX_MODEL_CALLS": 1,
        "TRUSTED_PROXIES": "127.0.0.1",
        "SECRETS_DIR": "{data}/nowhere",
        "cache_ttl": "nothing that makes sense",
    }
    async with world(**settings) as client:
        about = (await client.get("/")).json()
        assert about["title"] == title, "API_TITLE should be the service's title"
        for place in ("docs", "playground", "health"):
            found = await client.get(about[place])
            assert found.status_code == 200, f"the {place} that GET / names should be there"
        login = await try_login(client, "carol", PASSWORDS["carol"], "/agent/auth/login")
        assert login.status_code == 200, "there should be a login below API_PREFIX"
        token = str(login.json()["access_token"])
        said = claims_of(token)
        assert said["exp"] - said["iat"] == login.json()["expires_in"] == minutes * 60, (
            "ACCESS_TOKEN_EXPIRE_MINUTES should be how long a token is good, and the login say so"
        )
        reply = await answered(client, token, path="/agent/query")
        assert reply.text == "Good.", "a question should be answered below API_PREFIX"
        assert model.calls[-1].model == name, "OPENAI_MODEL should be the model that is asked"
        page = await client.get(LIVE, headers={"Origin": origin})
        assert page.headers.get("access-control-allow-origin") == origin, (
            "a page from one of CORS_ORIGINS should be let in"
        )
        assert page.headers.get("access-control-allow-credentials") == "true", (
            "with CORS_ALLOW_CREDENTIALS such a page should be let in with its cookies"
        )
        page = await client.get(LIVE, headers={"Origin": "https://stranger.example"})
        assert "access-control-allow-origin" not in page.headers, (
            "a page from elsewhere should not be let in"
        )
        metrics = await client.get("/metrics")
        refused(metrics, 404, "not_found", "GET /metrics without ENABLE_METRICS")
        model.respond(Scenario(hang=True))
        holder = asyncio.create_task(ask(client, token, "hang", path="/agent/query"))
        await seen(model, lambda m: m.call_count == 2, "a question should reach the model")
        crowded = ask(client, token, "hello again", path="/agent/query")
        reply = await in_time(crowded, "a turn beyond MAX_MODEL_CALLS should not be kept waiting")
        assert (reply.status, reply.code) == (503, "overloaded"), (
            "MAX_MODEL_CALLS should be how many turns are with the model at the same time"
        )
        await left(holder)
        statuses = [
            (await client.get("/agent/sessions", headers=bearer(token))).status_code
            for _ in range(4)
        ]
        assert statuses == [200] * 3 + [429], (
            "RATE_LIMIT_REQUESTS should be how often a user may ask in a window"
        )
        nobodys = [
            await client.get("/agent/sessions", headers={"X-Forwarded-For": f"198.51.100.{host}"})
            for host in (1,) * 7 + (2,)
        ]
        assert [each.status_code for each in nobodys] == [401] * 6 + [429, 401], (
            "whom one of the TRUSTED_PROXIES names should be the client, with its own allowance"
        )
        assert all("ratelimit" in each.headers for each in nobodys), (
            "an answer should say what is left of an allowance, as SecurityHeaders does"
        )


@check("reads_settings")
async def test_reads_files(world: World, model: OfflineModel, rng: random.Random) -> None:
    """What is in no variable is looked for in .env, then in SECRETS_DIR; a variable comes first."""
    folder = world.home / "secrets"
    folder.mkdir()
    key, version = f"{rng.getrandbits(512):0128x}", f"1.{rng.randrange(10**6)}"
    secrets = {"SECRET_KEY": key, "API_TITLE": "from a file", "API_VERSION": "from a file"}
    for name, text in secrets.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    settings = {
        "SECRETS_DIR": "{data}/secrets",
        "SECRET_KEY": "",
        "API_TITLE": "from a variable",
        "ALGORITHM": "HS512",
        "REQUEST_TIMEOUT": 0.4,
    }
    async with world.dotenv(f"API_VERSION={version}\n"), world(**settings) as client:
        token = await log_in(client)
        model.respond(Scenario(hang=True))
        reply = await in_time(ask(client, token, "hang"), "REQUEST_TIMEOUT should bound a turn")
        assert (reply.status, reply.code) == (504, "model_timeout"), (
            "REQUEST_TIMEOUT should be how long a turn may take"
        )
        claims = claims_of(token)
        ours = world.forged(claims, key=key, algorithm="HS512")
        response = await client.get(SESSIONS, headers=bearer(ours))
        assert response.status_code == 200, (
            "a SECRET_KEY in SECRETS_DIR should be what signs, by the ALGORITHM that is set"
        )
        about = (await client.get("/")).json()
        assert about["title"] == "from a variable", (
            "what is in a variable and in SECRETS_DIR should be taken from the variable"
        )
        assert about["version"] == version, (
            "what is in .env and in SECRETS_DIR should be taken from .env"
        )
    (folder / "API_TITLE").write_bytes(b"no text: \xff")
    no_text: dict[str, object] = {"SECRETS_DIR": "{data}/secrets"}
    await stop_the_start(world, [(("API_TITLE", "SECRETS_DIR"), no_text)])


Names = tuple[str, ...]
"""Of the settings that are at fault together; to name one of them is enough."""

EXAMPLES = ("your-secret-key-change-in-production", "an-example-of-a-key-with-many-letters")


@check("refuses_settings")
async def test_refuses_settings(world: World, rng: random.Random) -> None:
    """Production starts with settings that are safe, and with no others."""
    production: dict[str, object] = {"ENVIRONMENT": "production"}
    async with world(**production, METRICS_TOKEN="") as client:
        live = await client.get(LIVE)
        assert live.status_code == 200, "with a key of its own it should start"
        assert "strict-transport-security" in live.headers, (
            "in production browsers should be told to come by HTTPS alone"
        )
        docs = await client.get("/openapi.json")
        refused(docs, 404, "not_found", "the documentation in production")
        await log_in(client)
    async with world(SECRET_KEY="", DEBUG="true", DEMO_USERS="true", CORS_ORIGINS="*") as client:
        await log_in(client)
        assert "Demo user alice" in client.output, "in development there should be DEMO_USERS"
        live = await client.get(LIVE)
        assert "strict-transport-security" not in live.headers, (
            "in development no browser should be kept from coming without HTTPS"
        )
    unsafe: list[tuple[Names, dict[str, object]]] = [
        (("SECRET_KEY",), {"SECRET_KEY": ""}),
        (("SECRET_KEY",), {"SECRET_KEY": world.key[:40], "ALGORITHM": "HS512"}),
        (("SECRET_KEY",), {"SECRET_KEY": rng.choice(EXAMPLES)}),
        (("DEBUG",), {"DEBUG": "true"}),
        (("DEMO_USERS",), {"DEMO_USERS": "true"}),
        (
            ("CORS_ALLOW_CREDENTIALS", "CORS_ORIGINS"),
            {"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"},
        ),
        (("METRICS_TOKEN",), {"METRICS_TOKEN": world.key[:15]}),
        (("METRICS_TOKEN",), {"METRICS_TOKEN": rng.choice(EXAMPLES)}),
    ]
    await stop_the_start(world, [(name, {**production, **wrong}) for name, wrong in unsafe])


@check("refuses_settings")
async def test_refuses_nonsense(world: World, rng: random.Random) -> None:
    """What makes no sense stops the start anywhere, in one sentence that names the setting."""
    nonsense: list[tuple[Names, dict[str, object]]] = [
        (("SECRET_KEY",), {"SECRET_KEY": world.key[: rng.randint(16, 31)]}),
        (("ALGORITHM",), {"ALGORITHM": "none"}),
        (("ALGORITHM",), {"ALGORITHM": "RS256"}),
        (("ACCESS_TOKEN_EXPIRE_MINUTES",), {"ACCESS_TOKEN_EXPIRE_MINUTES": 0}),
        (("ACCESS_TOKEN_EXPIRE_MINUTES",), {"ACCESS_TOKEN_EXPIRE_MINUTES": 10**18}),
        (("CACHE_TTL",), {"CACHE_TTL": 0}),
    ]
    await stop_the_start(world, nonsense)


async def stop_the_start(world: World, wrong: Sequence[tuple[Names, dict[str, object]]]) -> None:
    """Each of them alone, with the sentence that it deserves."""
    starts = [world.refuses(**settings) for _, settings in wrong]
    for (names, settings), said in zip(wrong, await asyncio.gather(*starts), strict=True):
        one_sentence(names, settings, said)


def one_sentence(names: Names, settings: Mapping[str, object], said: str) -> None:
    assert any(name in said for name in names), "a refusal to start should name the setting"
    assert "Traceback" not in said, "a refusal to start should be a sentence, not a traceback"
    secrets = [
        str(value) for key, value in settings.items() if key in {"SECRET_KEY", "METRICS_TOKEN"}
    ]
    assert not any(secret in said for secret in secrets if secret), (
        "a refusal to start should not repeat a secret"
    )


# --- caching


def cached_keys(redis: Redis) -> list[str]:
    """The keys of answers in Redis, and not those of who makes them."""
    return re.findall(r"cache:answer:[^:\r]+(?=\r)", redis.command("KEYS", "cache:*").decode())


def bits(key: str) -> int:
    """Of the hash in it, in whatever digits it is written; none of anything else."""
    digits = key.removeprefix("cache:answer:").rstrip("=")
    if re.fullmatch("[0-9A-Fa-f]+", digits):
        return 4 * len(digits)
    return 6 * len(digits) if re.fullmatch("[A-Za-z0-9_+/-]+", digits) else 0


async def kept(redis: Redis, count: int) -> list[str]:
    """The keys, once there are so many: whoever asked may have been told before."""

    async def is_kept() -> bool:
        return len(cached_keys(redis)) == count

    await becomes(is_kept, "each answer should be kept in Redis, as cache:answer:..., and once")
    return cached_keys(redis)


def expires_in(redis: Redis, key: str) -> int:
    return int(redis.command("TTL", key).strip().lstrip(b":"))


@check("second_answer_is_cheaper")
async def test_second_answer_is_cheaper(
    world: World, model: OfflineModel, redis: Redis, rng: random.Random
) -> None:
    """The same question costs no second call; the answer is a turn that can be continued."""
    text, question = some_words(rng), some_words(rng)
    model.respond(Scenario(text))
    async with world(redis, CACHE_TTL=120) as client:
        token = await log_in(client)
        first = await answered(client, token, question)
        assert model.call_count == 1, "a question that nobody has asked should reach the model"
        assert first.metadata["cached"] is False, "an answer of the model's should not say cached"
        second = await answered(client, token, question)
        streamed = await answered(client, token, question, path=STREAM)
        assert model.call_count == 1, "the second answer should cost no call to the model"
        assert [second.text, streamed.text] == [text, text], "it should be the same answer"
        assert second.metadata["cached"] is True, "an answer from the cache should say so"
        assert len({each.session_id for each in (first, second, streamed)}) == 3, (
            "each answer should be a session of its own"
        )
        further = await answered(client, token, question, session_id=second.session_id)
        assert (model.call_count, further.metadata["cached"]) == (2, False), (
            "a question that has a history should reach the model"
        )
        assert text in [message["content"] for message in model.calls[-1].messages], (
            "a session that began with a cached answer should go on from there"
        )
        (key,) = await kept(redis, 1)
        assert bits(key) >= 256, "a key should end in a hash of 256 bits or more"
        assert 60 < expires_in(redis, key) <= 120, "an answer should be kept for CACHE_TTL"
        redis.command("FLUSHALL")
        await answered(client, token, question)
        assert model.call_count == 3, "what is not in Redis any more should be asked anew"
    async with world(redis, CACHE_ENABLED="false") as client:
        token = await log_in(client)
        for _ in range(2):
            await answered(client, token, question)
        assert model.call_count == 5, (
            "with CACHE_ENABLED=false each question should reach the model"
        )


@check("answers_kept_apart")
async def test_answers_kept_apart(
    world: World, model: OfflineModel, redis: Redis, rng: random.Random
) -> None:
    """An answer is for the one who asked, and for exactly what was asked."""
    model.respond(echo)
    question = some_words(rng)
    async with world(redis) as client:
        carol, dave = await log_in(client), await log_in(client, "dave")
        await answered(client, carol, question)
        assert (await answered(client, carol, question)).metadata["cached"], (
            "the same question of the same user should be answered from the cache"
        )
        answers = [
            await answered(client, dave, question),
            await answered(client, carol, question, max_iterations=3),
            await answered(client, carol, question.upper()),
            await answered(client, carol, question, max_iterations=12),
            await answered(client, carol, f"{question}1", max_iterations=2),
        ]
        assert [each.metadata["cached"] for each in answers] == [False] * 5, (
            "another user, another question, or another bound should get an answer of its own"
        )
        assert model.call_count == 6, "six different questions should cost six calls"
        await kept(redis, 6)
    async with world(redis, OPENAI_MODEL="gpt-4.1-mini") as client:
        reply = await answered(client, await log_in(client), question)
        assert reply.metadata["cached"] is False, (
            "another model should not be answered for with what the one before it said"
        )


@check("keeps_whole_answers")
async def test_keeps_whole_answers(
    world: World, model: OfflineModel, redis: Redis, rng: random.Random
) -> None:
    """Stopped, flawed and failed answers are not kept; what others wrote is not believed."""
    lost = ToolCall("nobody", {"task": "again"})
    async with world(redis) as client:
        token = await log_in(client)
        for scenarios in (
            [Scenario("Not who", finish_reason="length")],
            [Scenario(tool_calls=[lost]), Scenario("Nobody answers.")],
            [Scenario(status=400)],
        ):
            question = some_words(rng)
            model.enqueue(*scenarios)
            model.respond(Scenario("Good."))
            await ask(client, token, question)
            again = await answered(client, token, question)
            assert (again.metadata["cached"], again.text) == (False, "Good."), (
                "an answer that is not whole, or on whose way something failed, should not be kept"
            )
            assert (await answered(client, token, question)).metadata["cached"], (
                "the whole answer after it should be kept"
            )
        poisons: list[Any] = [{"response": 7}, {"response": "Mine."}, "Mine.", [], {}]
        for poison in poisons:
            redis.command("FLUSHALL")
            await answered(client, token, question)
            (key,) = await kept(redis, 1)
            redis.command("SET", key, json.dumps({"key": key, "value": poison}))
            reply = await ask(client, token, question)
            assert reply.status == 200, "what others write into Redis should fail no question"
            assert reply.text == "Good.", (
                "what stands in Redis and is no answer of ours should not be believed"
            )
        model.respond(echo)
        redis.command("FLUSHALL")
        await answered(client, token, question)
        (key,) = await kept(redis, 1)
        other = some_words(rng)
        await answered(client, token, other)
        (its_key,) = {*await kept(redis, 2)} - {key}
        redis.command("COPY", key, its_key, "REPLACE")
        reply = await answered(client, token, other)
        assert other in reply.text, (
            "what was kept for one question should not be believed where somebody has copied it to"
        )


@check("survives_redis")
async def test_survives_redis(world: World, model: OfflineModel, redis: Redis) -> None:
    """Redis dies, hangs, or is not there at first: questions are answered, then cached again."""
    model.respond(echo)
    redis.stop()
    async with world(redis, REDIS_TIMEOUT="") as client:
        token = await log_in(client)
        questions = iter(f"question {number}" for number in range(10_000))

        async def without_it(what: str) -> None:
            promise = f"a Redis that {what} should keep nobody waiting"
            for path in (PLAIN, STREAM):
                reply = await in_time(ask(client, token, next(questions), path=path), promise)
                assert reply.status == 200, f"a Redis that {what} should not fail a question"

        async def is_cached() -> bool:
            question = next(questions)
            await in_time(answered(client, token, question), "a question should be answered")
            reply = await in_time(answered(client, token, question), "and once more")
            return bool(reply.metadata["cached"])

        async def back_again() -> None:
            await becomes(is_cached, "when Redis is back, answers should be cached again")

        await without_it("is not there yet")
        redis.start()
        await back_again()
        redis.freeze()
        await without_it("says nothing")
        redis.thaw()
        await back_again()
        redis.stop()
        await without_it("has died")


# --- authentication


@check("logs_in")
async def test_logs_in(world: World) -> None:
    """A right password is exchanged for a token; anything else is the same refusal."""
    async with world() as client:
        right = await try_login(client, "carol", PASSWORDS["carol"])
        assert right.status_code == 200, "a right password should be answered with a token"
        told = right.json()
        assert (told["token_type"], told["expires_in"]) == ("bearer", 30 * 60), (
            "an answer to a login should say token_type bearer, and in how many seconds it expires"
        )
        said = claims_of(told["access_token"])
        assert (said["sub"], said["exp"] - said["iat"]) == ("carol", 30 * 60), (
            "a token should say whose it is, and for how long"
        )
        listed = await client.get(SESSIONS, headers=bearer(told["access_token"]))
        assert listed.status_code == 200, "with the token the agent's endpoints should be open"
        stored = world.users["carol"]["hash"]
        wrong = [
            await try_login(client, name, password)
            for name, password in [
                ("carol", PASSWORDS["dave"]),
                ("carol", stored),
                ("admin", "admin"),
                ("x", "x"),
            ]
        ]
        quickest = min(response.elapsed.total_seconds() for response in wrong[2:])
        assert quickest >= BCRYPT, (
            "a name that nobody has should take the time of a password, or it tells who is there"
        )
        for response in wrong:
            unauthorized(response, "invalid_credentials", "a login that is wrong")
        assert len({response.text for response in wrong}) == 1, (
            "nobody should be told whether the name or the password was wrong"
        )
        again = claims_of(await log_in(client))
        assert again["jti"] != said["jti"], "each token should have an id of its own"


@check("logs_in")
async def test_passwords_take_time(world: World) -> None:
    """Checking one keeps nobody else waiting, and five wrong ones of a user are looked at."""
    world.users["erin"] = {"hash": COSTLY, "since": 0}
    world.users["frank"] = {"hash": RATHER_COSTLY, "since": 0}
    world.write_users()
    async with world() as client:
        await others_go_on_meanwhile(client)
        await guessing_is_limited(client)


async def others_go_on_meanwhile(client: Client) -> None:
    began = time.monotonic()
    login = asyncio.create_task(try_login(client, "erin", "erins-own-password"))
    longest, meanwhile = 0.0, 0
    while not login.done():
        asked = time.monotonic()
        await client.get(LIVE)
        longest = max(longest, time.monotonic() - asked)
        meanwhile += not login.done()
        await asyncio.sleep(0.01)  # the core is for bcrypt
    took = time.monotonic() - began
    assert (await login).status_code == 200, "a right password should be answered with a token"
    waited = "checking a password should keep nobody else waiting"
    assert meanwhile >= ENOUGH, waited
    assert longest < took / 2, waited


async def guessing_is_limited(client: Client) -> None:
    """At once or not; right ones are not counted."""
    for _ in range(7):
        await log_in(client)
    # While both threads have work the guesses wait, so that none is over before the next one comes.
    before_them = [try_login(client, "frank", "franks-own-password") for _ in range(2)]
    guesses = [try_login(client, "carol", f"guess-{number}") for number in range(20)]
    _, _, *answers = await asyncio.gather(*before_them, *guesses)
    statuses = sorted(response.status_code for response in answers)
    assert statuses == [401] * 5 + [429] * 15, (
        "of many wrong passwords at once no more than five should be looked at"
    )
    locked = await try_login(client, "carol", PASSWORDS["carol"])
    refused(locked, 429, "too_many_logins", "a login after five wrong passwords")
    assert int(locked.headers.get("retry-after", "0")) >= 1, (
        "a 429 should say in Retry-After when to come back"
    )
    await log_in(client, "dave")


@check("tokens_are_ours")
async def test_tokens_are_ours(world: World) -> None:
    """A token is believed if it says everything it should, signed with our key in our way."""
    async with world() as client:
        token = await log_in(client)
        claims = claims_of(token)
        alike = await client.get(SESSIONS, headers=bearer(world.forged(claims)))
        assert alike.status_code == 200, (
            "a token that says what ours say, signed with SECRET_KEY by HS256, should be believed"
        )
        now, other_key = int(time.time()), world.key[::-1]
        head, body, signature = token.split(".")
        of_dave = as_part({**claims, "sub": "dave"})
        forgeries = {
            "of another key": world.forged(claims, key=other_key),
            "without a signature": world.forged(claims, algorithm="none"),
            "of an algorithm that was not set": world.forged(claims, algorithm="HS512"),
            "changed after it was signed": f"{head}.{of_dave}.{signature}",
            "that has expired": world.forged({**claims, "iat": now - 90, "exp": now - 30}),
            "not valid yet": world.forged({**claims, "nbf": now + 600}),
            "made in the future": world.forged({**claims, "iat": now + 600}),
            "of another issuer": world.forged({**claims, "iss": "somebody"}),
            "for another audience": world.forged({**claims, "aud": "others"}),
            "of a user who is not there": world.forged({**claims, "sub": "mallory"}),
            "in pieces": f"{head}.{body}",
            "that is none": "token",
            **{
                f"without {name}": world.forged({k: v for k, v in claims.items() if k != name})
                for name in ("exp", "iat", "sub", "jti", "iss", "aud")
            },
        }
        for what, forged in forgeries.items():
            response = await client.get(SESSIONS, headers=bearer(forged))
            unauthorized(response, "invalid_token", f"a token {what}")


@check("tokens_end")
async def test_tokens_end(world: World) -> None:
    """A logout, a new password, a user who is gone: from then on their tokens are refused."""
    async with world() as client:
        token, other = await log_in(client), await log_in(client)
        left = await client.post(LOGOUT, headers=bearer(token))
        assert left.status_code == 200, "POST /api/v1/auth/logout should log out"
        for again in (client.get(SESSIONS, headers=bearer(token)), ask(client, token, "hello")):
            answer = await again
            status = answer.status if isinstance(answer, Reply) else answer.status_code
            assert status == 401, "a token should be refused once it has been logged out"
        still = await client.get(SESSIONS, headers=bearer(other))
        assert still.status_code == 200, "a logout should end one token, and no other"
        daves = await log_in(client, "dave")
    async with world() as client:
        gone = await client.get(SESSIONS, headers=bearer(token))
        unauthorized(gone, "invalid_token", "a token that was logged out before a restart")
        for each in (other, daves):
            response = await client.get(SESSIONS, headers=bearer(each))
            assert response.status_code == 200, "a restart should end no token"
        world.set_user("carol", PASSWORDS["carol"], since=int(time.time()) + 1)
        old = await client.get(SESSIONS, headers=bearer(other))
        unauthorized(old, "invalid_token", "a token from before a new password")
        world.set_user("dave", PASSWORDS["dave"], since=int(time.time()))
        daves = await log_in(client, "dave")
        new = await client.get(SESSIONS, headers=bearer(daves))
        assert new.status_code == 200, "a token from after a new password should be good"
        del world.users["dave"]
        world.write_users()
        nobodys = await client.get(SESSIONS, headers=bearer(daves))
        unauthorized(nobodys, "invalid_token", "a token of a user who has been removed")


@check("every_endpoint")
async def test_every_endpoint(world: World, model: OfflineModel, rng: random.Random) -> None:
    """Without a token nothing but the login and the probes; with one, what is one's own."""
    model.respond(Scenario("Good."))
    async with world() as client:
        document = (await client.get("/openapi.json")).json()
        closed = [
            (method, path)
            for path, methods in document["paths"].items()
            for method in methods
            if path.startswith("/api/v1/") and path != LOGIN
        ]
        promised = {PLAIN, STREAM, SESSIONS, LOGOUT, "/api/v1/session/{session_id}"}
        assert promised <= {path for _, path in closed}, "every endpoint should be there"
        token = await log_in(client)
        mine = (await answered(client, token)).session_id
        calls = model.call_count
        for method, path in closed:
            place = path.replace("{session_id}", mine)
            nobodys = await client.request(method, place, json={"nonsense": some_words(rng)})
            unauthorized(nobodys, "not_authenticated", f"{method.upper()} {path} without a token")
        elsewhere: list[dict[str, Any]] = [
            {"params": {"token": token, "access_token": token}},
            {"headers": {"Cookie": f"access_token={token}; token={token}"}},
            {"headers": {"Authorization": token}},
            {"headers": {"Authorization": f"Basic {token}"}},
        ]
        for way in elsewhere:
            response = await client.get(SESSIONS, **way)
            unauthorized(response, "not_authenticated", "a token that comes in another way")
        assert model.call_count == calls, "what is refused should not reach the model"
        dave = await log_in(client, "dave")
        path = f"/api/v1/session/{mine}"
        for foreign in (
            await client.get(path, headers=bearer(dave)),
            await client.delete(path, headers=bearer(dave)),
        ):
            refused(foreign, 404, "session_not_found", "somebody else's session")
        reply = await ask(client, dave, "go on", mine)
        assert reply.status == 404, "somebody else's session should not be there to go on with"
        listed = [
            (await client.get(SESSIONS, headers=bearer(each))).json()["sessions"]
            for each in (token, dave)
        ]
        assert listed == [[mine], []], "everybody should be shown their own sessions"


@check("every_endpoint")
async def test_metrics_in_production(world: World, rng: random.Random) -> None:
    """In production the numbers are for the holder of METRICS_TOKEN."""
    secret = "".join(rng.sample("0123456789abcdef", 16))
    async with world(ENVIRONMENT="production", METRICS_TOKEN=secret) as client:
        read = await client.get("/metrics", headers=bearer(secret))
        assert read.status_code == 200, "METRICS_TOKEN should open GET /metrics"
        carol = await log_in(client)
        for headers in ({}, bearer(carol), bearer(secret[:-1])):
            response = await client.get("/metrics", headers=headers)
            unauthorized(response, "not_authenticated", "GET /metrics without METRICS_TOKEN")


# --- metrics


@dataclass(frozen=True)
class Metrics:
    """One scrape."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def all(self, name: str) -> list[dict[str, str]]:
        """The labels of each sample of this name."""
        return [dict(labels) for each, labels in self.samples if each == name]

    def requests(self, method: str, endpoint: str) -> dict[str, float]:
        """How many, by status."""
        return {
            labels["status"]: self.value("http_requests_total", **labels)
            for labels in self.all("http_requests_total")
            if (labels["method"], labels["endpoint"]) == (method, endpoint)
        }


async def scrape(client: Client) -> Metrics:
    response = await client.get("/metrics")
    assert response.status_code == 200, "GET /metrics should answer"
    return Metrics(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }
    )


SESSION = "/api/v1/session/{session_id}"
ODD_METHODS = ["PROPFIND", "MKCOL", "LOCK", "REPORT", "SEARCH"]
"""That a server lets through, and no endpoint here takes."""


@check("requests_counted")
async def test_requests_counted(world: World, model: OfflineModel, rng: random.Random) -> None:
    """Each request once, by method, route and status; clients cannot make up labels."""
    model.respond(Scenario("Good."))
    live, unknown, missing = (rng.randint(2, 5) for _ in range(3))
    async with world() as client:
        token = await log_in(client)
        headers = bearer(token)
        for _ in range(live):
            await client.get(LIVE)
        for method in rng.sample(ODD_METHODS, unknown):
            await client.get(f"/{some_words(rng, 1)}", headers=headers)
            await client.request(method, LIVE)
        for _ in range(missing):
            await client.get(f"/api/v1/session/{some_words(rng, 1)}", headers=headers)
        await client.get(SESSIONS)
        await client.post(PLAIN, json={"query": ""}, headers=headers)
        await answered(client, token)
        now = await scrape(client)
        expected = {
            ("GET", LIVE): {"200": live},
            ("GET", "other"): {"404": unknown},
            ("GET", SESSION): {"404": missing},
            ("GET", SESSIONS): {"401": 1},
            ("POST", PLAIN): {"200": 1, "422": 1},
            ("POST", LOGIN): {"200": 1},
        }
        for (method, endpoint), counts in expected.items():
            assert now.requests(method, endpoint) == counts, (
                f"http_requests_total should count {method} {endpoint} once for each request, by"
                " its status"
            )
            count = "http_request_duration_seconds_count"
            observed = now.value(count, method=method, endpoint=endpoint)
            assert observed == sum(counts.values()), (
                f"http_request_duration_seconds should observe {method} {endpoint} once for each"
                " request"
            )
        labels = now.all("http_requests_total")
        strange = [each for each in labels if each["method"] not in {"GET", "POST"}]
        assert len(strange) == 1, "methods that nobody knows should share one label"
        assert now.value("http_requests_total", **strange[0]) == unknown, (
            "requests with a method that nobody knows should be counted, too"
        )
        assert len(labels) == 1 + sum(len(counts) for counts in expected.values()), (
            "there should be no more labels than routes, methods and statuses"
        )


@check("requests_counted")
async def test_streams_are_counted_at_their_end(world: World, model: OfflineModel) -> None:
    """A stream is counted when its last event is sent, with all the time that it took."""
    held = Held()
    model.respond(held)
    async with world() as client:
        token = await log_in(client)
        await client.get("/health")
        body, headers = {"query": "What is 2 + 2?"}, bearer(token)
        async with client.stream("POST", STREAM, json=body, headers=headers) as response:
            events = arriving(response)
            await in_time(anext(events), "a stream should begin while the model still works")
            began = time.monotonic()
            early = await scrape(client)
            assert early.requests("POST", STREAM) == {}, "a stream under way is no finished request"
            lasted = time.monotonic() - began
            held.may_go_on.set()
            assert [event["done"] async for event in events][-1], "a stream should end"

        async def is_counted() -> bool:
            return (await scrape(client)).requests("POST", STREAM) == {"200": 1}

        await becomes(is_counted, "a stream that has ended should be counted, once")
        model.respond(Scenario(hang=True))
        leaving = asyncio.create_task(ask(client, token, "hang"))
        await seen(model, lambda m: m.calls[-1].outcome == "open", "a question reaches the model")
        await left(leaving)

        async def is_counted_too() -> bool:
            return sum((await scrape(client)).requests("POST", PLAIN).values()) == 1

        await becomes(is_counted_too, "a request whose client has left should be counted, too")
        now = await scrape(client)
        total = "http_request_duration_seconds_sum"
        assert lasted <= now.value(total, method="POST", endpoint=STREAM) < 600, (
            "a stream's duration should be the seconds until its last event"
        )


@check("turns_counted")
async def test_turns_counted(
    world: World, model: OfflineModel, redis: Redis, rng: random.Random
) -> None:
    """A turn is a success, a failure or cancelled, and counted once; a refusal is none of them."""
    good = rng.randint(2, 4)
    async with world(redis) as client:
        token = await log_in(client)
        model.respond(Scenario("Good."))
        for number in range(good):
            await answered(client, token, f"question {number}", path=(PLAIN, STREAM)[number % 2])
        await answered(client, token, "question 0")
        model.enqueue(Scenario(status=400), Scenario(pieces=["Go", "od"], cut_after=1))
        for path in (PLAIN, STREAM):
            await ask(client, token, some_words(rng), path=path)
        model.respond(Scenario(hang=True))
        leaving = asyncio.create_task(ask(client, token, "hang"))
        await seen(model, lambda m: m.calls[-1].outcome == "open", "a question reaches the model")
        await left(leaving)
        refusal = await ask(client, token, "hello", "of-nobody")
        assert refusal.status == 404, "a session that is not there should be refused"
        await client.get(SESSIONS)

        async def is_counted() -> bool:
            now = await scrape(client)
            return now.value("agent_executions_total", status="cancelled") == 1

        await becomes(is_counted, "a turn whose client left should be counted as cancelled")
        now = await scrape(client)
        listed = await client.get(SESSIONS, headers=bearer(token))
    turns = {
        labels["status"]: now.value("agent_executions_total", **labels)
        for labels in now.all("agent_executions_total")
    }
    assert turns == {"success": good + 1, "failure": 2, "cancelled": 1}, (
        "agent_executions_total should count each turn once, by how it ended; refusals are no turns"
    )
    refusals = {
        labels["code"]: now.value("agent_refusals_total", **labels)
        for labels in now.all("agent_refusals_total")
    }
    assert refusals == {"session_not_found": 1, "not_authenticated": 1}, (
        "agent_refusals_total should count each refusal once, by its code, and no failure"
    )
    assert now.value("agent_execution_duration_seconds_count") == good + 4, (
        "agent_execution_duration_seconds should observe each turn once"
    )
    assert 0 < now.value("agent_execution_duration_seconds_sum") < 600, (
        "agent_execution_duration_seconds should observe seconds"
    )
    assert now.value("agent_active_sessions") == listed.json()["count"], (
        "agent_active_sessions should be how many sessions there are"
    )


# --- health


async def settled(client: Client, path: str, **states: str) -> httpx.Response:
    """A probe's answer, once every dependency has had the time to say something."""
    deadline = time.monotonic() + ASKED
    while True:
        response = await client.get(path)
        if time.monotonic() > deadline or response.json().get("dependencies") == states:
            return response
        await asyncio.sleep(0.1)


@check("health_names_dependencies")
async def test_all_is_well(world: World, model: OfflineModel, redis: Redis) -> None:
    """The health says what the service leans on; what is switched off is off."""
    async with world(redis) as client:
        for path in ("/health", "/health/ready"):
            health = await settled(client, path, session_store="up", redis="up", model="up")
            assert health.status_code == 200, f"GET {path} should answer"
            assert health.json() == {
                "status": "healthy",
                "dependencies": {"session_store": "up", "redis": "up", "model": "up"},
                "degraded": False,
            }, f"GET {path} should name every dependency, and say that all are up"
        live = await client.get(LIVE)
        assert live.json() == {"status": "healthy"}, "GET /health/live should say that it lives"
    async with world() as client:
        health = await settled(client, "/health", session_store="up", redis="off", model="up")
        assert health.json()["dependencies"]["redis"] == "off", "what is switched off is off"
        assert health.json()["degraded"] is False, "what is switched off is not missed"
    assert model.call_count == 0, "a probe should cost no call to the model"


@check("health_names_dependencies")
async def test_what_is_down_is_named(world: World, model: OfflineModel, redis: Redis) -> None:
    """Without Redis or the model it is degraded, and goes on; without its sessions not ready."""
    async with world(redis) as client:
        redis.stop()
        model.stop()
        await in_time(client.get("/health"), "a probe should not wait for what is down")
        health = await settled(client, "/health", session_store="up", redis="down", model="down")
        assert health.status_code == 200, "without Redis and the model the service still answers"
        assert health.json()["dependencies"] == {
            "session_store": "up",
            "redis": "down",
            "model": "down",
        }, "the health should say which dependencies are down"
        assert health.json()["degraded"] is True, "a service that does without should say degraded"
    async with world() as client:
        with closing(sqlite3.connect(world.home / "state/sessions.db")) as file:
            file.execute("ALTER TABLE sessions RENAME TO away")
            file.commit()
        for path in ("/health", "/health/ready"):
            response = await client.get(path)
            refused(response, 503, "not_ready", f"GET {path} without the session store")
            assert response.headers.get("retry-after"), "a 503 should say when to come back"
        live = await client.get(LIVE)
        assert live.status_code == 200, "the process lives, whatever it leans on"


# --- logs


def lines(client: Client, since: int = 0) -> list[dict[str, Any]]:
    """What was printed after so many characters, line by line."""
    found = []
    for line in client.output[since:].splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            raise AssertionError("each line of the log should be one JSON object") from None
    return found


def about(client: Client, request_id: str) -> list[dict[str, Any]]:
    """The lines of one request that tell its end."""
    return [line for line in lines(client) if line.get("request_id") == request_id]


async def logged(client: Client, request_id: str) -> dict[str, Any]:
    """The line of one request, once it is there: it may come after the answer."""

    async def is_there() -> bool:
        return bool(about(client, request_id))

    await becomes(is_there, "each request should have a line in the log, with its request_id")
    found = about(client, request_id)
    assert len(found) == 1, "each request should have one line in the log"
    return found[0]


@check("logs_structured")
async def test_logs_structured(world: World, model: OfflineModel, rng: random.Random) -> None:
    """One line of JSON for each request: what was asked for, what came of it, whose it was."""
    model.respond(Scenario("Good."))
    async with world() as client:
        token = await log_in(client)
        mine = (await answered(client, token)).session_id
        path = f"/api/v1/session/{mine}"
        plain = {"query": "hello", "session_id": mine}
        name = f"request-{rng.randrange(10**9)}"
        asked: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
            ("GET", LIVE, {}, {"route": LIVE, "status": 200}),
            ("GET", path, {"headers": bearer(token)}, {"route": SESSION, "user": "carol"}),
            ("POST", PLAIN, {"headers": bearer(token), "json": plain}, {"session": mine}),
            ("GET", SESSIONS, {}, {"route": SESSIONS, "status": 401}),
            ("GET", "/nowhere", {}, {"status": 404}),
        ]
        for number, (method, place, how, expected) in enumerate(asked):
            headers = {**how.pop("headers", {}), "X-Request-ID": f"{name}-{number}"}
            response = await client.request(method, place, headers=headers, **how)
            line = await logged(client, response.headers["x-request-id"])
            told = {"method": method, "status": response.status_code, **expected}
            assert told.items() <= line.items(), (
                "a request's line should tell its method, its route, its status, its user and its"
                " session"
            )
            assert 0 < line["duration"] < 60, "a request's line should tell its duration in seconds"
            assert line.get("client") == "127.0.0.1", "it should tell the client's address"
            assert {"timestamp", "level"} <= line.keys(), "each line should tell when, and how bad"
        lines(client)
        await scrape(client)


@check("logs_structured")
async def test_streams_are_logged_at_their_end(world: World, model: OfflineModel) -> None:
    """A stream has its line when its last event is sent, with all the time that it took."""
    held = Held()
    model.respond(held)
    async with world() as client:
        token = await log_in(client)
        await client.get("/health")
        body, headers = {"query": "What is 2 + 2?"}, bearer(token)
        asked = time.monotonic()
        async with client.stream("POST", STREAM, json=body, headers=headers) as response:
            events = arriving(response)
            await in_time(anext(events), "a stream should begin while the model still works")
            began = time.monotonic()
            await client.get(LIVE)
            name = response.headers["x-request-id"]
            assert not about(client, name), "a stream under way should not be logged as finished"
            lasted = time.monotonic() - began
            held.may_go_on.set()
            assert [event["done"] async for event in events][-1], "a stream should end"
        line = await logged(client, name)
        assert lasted <= line["duration"] <= time.monotonic() - asked, (
            "a stream's duration should be all the time that it took, in seconds"
        )


@check("logs_keep_secrets")
async def test_logs_keep_secrets(world: World, model: OfflineModel, rng: random.Random) -> None:
    """Neither what people write nor what opens doors gets into the log."""
    question, answer, other = (f"secret{rng.randrange(10**12)}" for _ in range(3))
    model.respond(Scenario(f"Good: {answer}."))
    async with world() as client:
        token = await log_in(client)
        await try_login(client, "carol", other)
        await try_login(client, other, PASSWORDS["carol"])
        for path in (PLAIN, STREAM):
            await answered(client, token, question, path=path)
        model.respond(Scenario(status=400))
        await ask(client, token, question)
        for place in (f"/{other}", f"/api/v1/session/{other}", f"{LIVE}?token={token}&x={other}"):
            await client.get(place, headers=bearer(token))
        written = dict.fromkeys(["User-Agent", "Referer", "X-Forwarded-For"], other)
        await client.request("GET", LIVE, headers=written)
        split = f"{LIVE}?x=%0A%7B%22event%22%3A%22{other}%22%7D"
        last = await client.get(split)
        await logged(client, last.headers["x-request-id"])
        said = client.output.lower()
        assert all(line.get("event") for line in lines(client)), (
            "each line should say what it tells"
        )
    secrets = {
        "a question": question,
        "an answer": answer,
        "a password, a path, or another thing that clients write": other,
        "a password": PASSWORDS["carol"],
        "a token": token.rpartition(".")[2],
        "the SECRET_KEY": world.key,
    }
    for what, secret in secrets.items():
        assert secret.lower() not in said, f"{what} should not get into the log"
