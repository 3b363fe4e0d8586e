"""Logging in, out, and being believed: over HTTP, with nothing behind it but the router."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from advanced.app.config import Settings
from advanced.app.database import Database
from advanced.app.dependencies import USER_ERRORS, CurrentUser, on_unauthenticated
from advanced.app.errors import Unauthenticated
from advanced.app.login_failures import WINDOW, MemoryLoginFailures, StoredLoginFailures
from advanced.app.passwords import Hash, Passwords
from advanced.app.routes import auth
from advanced.app.security import (
    Authentication,
    MemoryRevocations,
    Tokens,
    open_authentication,
)
from advanced.app.signing_key import signing_key
from advanced.app.users import Users, demo_password, remove_user, set_password
from shared.models import ErrorResponse
from shared.web.documentation import refusals
from shared.web.edge import add_edge

KEY = "a1b2c3d4e5f60718" * 4
ISSUER, AUDIENCE = "tests", "tests-api"
RIGHT = "an-example-password"
MINUTES = 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Time:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def make_app(authentication: Authentication) -> FastAPI:
    app = FastAPI()
    add_edge(app)
    app.exception_handler(Unauthenticated)(on_unauthenticated)
    app.include_router(auth.router, prefix="/api/v1")

    @app.get("/me", responses=refusals(*USER_ERRORS))
    async def me(user: CurrentUser) -> str:
        return user.name

    app.state.authentication = authentication
    return app


@dataclass
class World:
    """A service with carol and dave, whose other workers share what they must."""

    users_file: Path
    clock: Time
    revocations: MemoryRevocations
    database: Database
    stack: AsyncExitStack

    async def worker(self, passwords: Passwords | None = None) -> Authentication:
        passwords = await self.stack.enter_async_context(passwords or Passwords(cost=4))
        failures = StoredLoginFailures(self.database, self.clock)
        users = Users(self.users_file)
        return Authentication(self.tokens(), users, passwords, self.revocations, failures)

    def tokens(self, **changes: Any) -> Tokens:
        usual = {"issuer": ISSUER, "audience": AUDIENCE, "lifetime": timedelta(minutes=MINUTES)}
        made = {"key": SecretStr(KEY), "clock": self.clock, **usual, **changes}
        return Tokens(made.pop("key"), **made)

    async def client(self, address: str = "192.0.2.1", app: FastAPI | None = None) -> Any:
        transport = httpx.ASGITransport(app or make_app(await self.worker()), client=(address, 1))
        client = httpx.AsyncClient(transport=transport, base_url="http://service.example")
        return await self.stack.enter_async_context(client)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    users_file = tmp_path / "users.json"
    clock = Time()
    for name in ("carol", "dave"):
        set_password(users_file, name, RIGHT, cost=4)
    entries = json.loads(users_file.read_text())
    for entry in entries.values():
        entry["since"] = int(clock.now) - 1000
    users_file.write_text(json.dumps(entries))
    database = Database(tmp_path / "sessions.db")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        yield World(users_file, clock, MemoryRevocations(), database, stack)


@pytest.fixture
async def client(world: World) -> httpx.AsyncClient:
    made: httpx.AsyncClient = await world.client()
    return made


async def login(
    client: httpx.AsyncClient, name: str = "carol", password: str = RIGHT
) -> httpx.Response:
    form = {"username": name, "password": password}
    return await client.post("/api/v1/auth/login", data=form)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_login_gives_a_token_that_is_believed(client: httpx.AsyncClient) -> None:
    """The answer is a bearer token with its lifetime, for no cache to keep."""
    response = await login(client)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.json()) == {"access_token", "token_type", "expires_in"}
    assert response.json()["token_type"] == "bearer"
    assert response.json()["expires_in"] == MINUTES * 60
    me = await client.get("/me", headers=bearer(response.json()["access_token"]))
    assert (me.status_code, me.json()) == (200, "carol")


async def test_two_logins_are_two_tokens(client: httpx.AsyncClient) -> None:
    """Even within a second, so that logging out of one leaves the other."""
    one, other = [(await login(client)).json()["access_token"] for _ in range(2)]
    assert one != other
    assert (await client.post("/api/v1/auth/logout", headers=bearer(one))).status_code == 200
    assert (await client.get("/me", headers=bearer(one))).status_code == 401
    assert (await client.get("/me", headers=bearer(other))).status_code == 200


def is_refused(response: httpx.Response, code: str = "invalid_token") -> bool:
    challenge = 'Bearer error="invalid_token"' if code == "invalid_token" else "Bearer"
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == challenge
    assert ErrorResponse(**response.json()).code == code
    return True


async def test_strangers_and_wrong_passwords_hear_the_same(client: httpx.AsyncClient) -> None:
    """Nobody learns from the answer who is a user."""
    wrong, stranger = await login(client, "carol", "wrong"), await login(client, "nobody", RIGHT)
    assert is_refused(wrong, "invalid_credentials")
    assert is_refused(stranger, "invalid_credentials")
    assert wrong.json() == stranger.json()
    assert set(wrong.headers) == set(stranger.headers)


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"username": "carol", "password": RIGHT}},
        {"params": {"username": "carol", "password": RIGHT}},
        {"data": {"username": "carol"}},
        {"data": {"username": "carol", "password": ""}},
        {"data": {"username": "carol", "password": "x" * 1025}},
        {"data": {"username": "x" * 1025, "password": RIGHT}},
        {"auth": ("carol", RIGHT)},
    ],
)
async def test_a_login_is_a_form(client: httpx.AsyncClient, sent: dict[str, Any]) -> None:
    """Anything else is 422, and what was sent is not repeated."""
    response = await client.post("/api/v1/auth/login", **sent)
    assert response.status_code == 422
    assert response.json()["code"] == "validation_error"
    assert RIGHT not in response.text
    assert "carol" not in response.text


@pytest.mark.parametrize(
    "name", ["\0", "\ud800", "\N{SNOWMAN}", "' OR 1=1 --", "../carol", " carol"]
)
async def test_odd_names_are_strangers(client: httpx.AsyncClient, name: str) -> None:
    """No name is an error."""
    body = b"password=wrong&username=" + b"".join(
        b"%%%02X" % byte for byte in name.encode("utf-8", "surrogatepass")
    )
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await client.post("/api/v1/auth/login", content=body, headers=form)
    assert is_refused(response, "invalid_credentials")


def encoded(part: Mapping[str, Any] | bytes) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(
    claims: Mapping[str, Any], key: str = KEY, header: Mapping[str, Any] | None = None
) -> str:
    """A token made by hand, as somebody would who knows `key`."""
    content = f"{encoded(header or {'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims)}"
    hashes = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}
    function = hashes.get(str((header or {}).get("alg")), hashlib.sha256)
    signature = hmac.new(key.encode(), content.encode(), function).digest()
    return f"{content}.{encoded(signature)}"


NOW = int(Time().now)
CLAIMS = {
    "sub": "carol",
    "iss": ISSUER,
    "aud": AUDIENCE,
    "iat": NOW,
    "exp": NOW + 600,
    "jti": "example-token",
}
REMOVED = object()


def changed(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (CLAIMS | changes).items() if value is not REMOVED}


def tampered(token: str) -> str:
    """Another user's name under the old signature."""
    header, _, signature = token.split(".")
    return f"{header}.{encoded(changed(sub='dave'))}.{signature}"


GENUINE = signed(CLAIMS)
FORGED = {
    "alg none": encoded({"alg": "none"}) + "." + encoded(CLAIMS) + ".",
    "alg none, signed": signed(CLAIMS, header={"alg": "none"}),
    "alg None": jwt.encode(CLAIMS, None, algorithm="none"),
    "alg missing": signed(CLAIMS, header={"typ": "JWT"}),
    "alg a list": signed(CLAIMS, header={"alg": ["HS256"]}),
    "another algorithm": signed(CLAIMS, header={"alg": "HS512"}),
    "another length": signed(CLAIMS, header={"alg": "HS384"}),
    "another family": signed(CLAIMS, header={"alg": "RS256"}),
    "another key": signed(CLAIMS, key=KEY[::-1]),
    "no key": signed(CLAIMS, key=""),
    "its own key": signed(CLAIMS, key="x" * 64, header={"alg": "HS256", "jwk": {"kty": "oct"}}),
    "an unknown extension": signed(CLAIMS, header={"alg": "HS256", "crit": ["x"], "x": 1}),
    "expired": signed(changed(exp=NOW)),
    "expired long ago": signed(changed(iat=NOW - 900, exp=NOW - 600)),
    "from the future": signed(changed(iat=NOW + 60)),
    "not yet valid": signed(changed(nbf=NOW + 60)),
    "another issuer": signed(changed(iss="others")),
    "issuer a list": signed(changed(iss=[ISSUER])),
    "another audience": signed(changed(aud="others")),
    "several audiences": signed(changed(aud=[AUDIENCE, "others"])),
    **{f"no {name}": signed(changed(**{name: REMOVED})) for name in CLAIMS},
    **{f"{name} null": signed(changed(**{name: None})) for name in CLAIMS},
    "sub a number": signed(changed(sub=7)),
    "sub a list": signed(changed(sub=["carol"])),
    "sub empty": signed(changed(sub="")),
    "a stranger": signed(changed(sub="nobody")),
    "jti a number": signed(changed(jti=7)),
    "exp a text": signed(changed(exp=str(NOW + 600))),
    "exp infinite": signed(changed(exp=float("inf"))),
    "exp true": signed(changed(exp=True, iat=False)),
    "iat a text": signed(changed(iat="now")),
    "nbf a text": signed(changed(nbf="now")),
    "no object": signed([]),  # type: ignore[arg-type]  # on purpose
    "tampered": tampered(GENUINE),
    "tampered signature": GENUINE[:-8] + "AAAAAAAA",
    "cut": GENUINE[:-1],
    "no signature": GENUINE.rpartition(".")[0] + ".",
    "two parts": GENUINE.rpartition(".")[0],
    "padded": GENUINE + "=",
    "in quotes": f'"{GENUINE}"',
    "two in one": f"{GENUINE}, Bearer {GENUINE}",
    "not a token": "carol",
    "no ASCII": "\xe9" * 20,
    "deep": encoded(b"[" * 5000) + "." + encoded(CLAIMS) + ".AAAA",
    "huge": "A" * 30_000,
}


async def test_a_token_made_by_hand_is_believed_if_it_is_right(client: httpx.AsyncClient) -> None:
    """So what is refused below is refused for what is wrong with it."""
    assert (await client.get("/me", headers=bearer(GENUINE))).json() == "carol"
    with_more = signed(changed(nbf=NOW, role="student"))
    assert (await client.get("/me", headers=bearer(with_more))).json() == "carol"


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_token_is_refused(client: httpx.AsyncClient, kind: str) -> None:
    """One answer for all of them, which does not say what was wrong."""
    headers = [(b"Authorization", b"Bearer " + FORGED[kind].encode("latin-1"))]
    response = await client.get("/me", headers=headers)
    assert is_refused(response)
    assert response.json()["detail"] is None


async def test_a_token_comes_in_the_header_alone(client: httpx.AsyncClient) -> None:
    """Addresses are logged and cookies are sent by other pages: both are not looked at."""
    for sent in (
        await client.get("/me", params={"access_token": GENUINE, "token": GENUINE}),
        await client.get("/me", headers={"Cookie": f"access_token={GENUINE}"}),
        await client.get("/me", headers={"Authorization": f"Basic {GENUINE}"}),
        await client.get("/me", headers={"Authorization": GENUINE}),
        await client.get("/me", headers={"Authorization": "Bearer"}),
        await client.get("/me"),
    ):
        assert is_refused(sent, "not_authenticated")


@pytest.mark.parametrize("other", [GENUINE, "nonsense"])
@pytest.mark.parametrize("first", [True, False])
async def test_two_authorization_headers_are_refused(
    client: httpx.AsyncClient, other: str, first: bool
) -> None:
    """A proxy may have looked at the one, and the service would believe the other."""
    both = [("Authorization", f"Bearer {token}") for token in (GENUINE, other)]
    response = await client.get("/me", headers=both if first else both[::-1])
    assert is_refused(response, "not_authenticated")


async def test_a_token_ends_with_its_time(world: World, client: httpx.AsyncClient) -> None:
    """To the second."""
    token = (await login(client)).json()["access_token"]
    world.clock.now += MINUTES * 60 - 1
    assert (await client.get("/me", headers=bearer(token))).status_code == 200
    world.clock.now += 1
    assert is_refused(await client.get("/me", headers=bearer(token)))


async def test_create_access_token_takes_a_lifetime(world: World) -> None:
    """The hand-out's second argument; claims that only the service may set cannot be passed in."""
    client = await world.client()
    tokens = world.tokens()
    made = tokens.create_access_token({"sub": "carol", "exp": NOW + 9999}, timedelta(seconds=5))
    assert (await client.get("/me", headers=bearer(made))).status_code == 200
    world.clock.now += 5
    assert is_refused(await client.get("/me", headers=bearer(made)))
    over = tokens.create_access_token({"sub": "carol"}, timedelta(0))
    assert is_refused(await client.get("/me", headers=bearer(over)))


async def test_the_other_algorithms_work(world: World) -> None:
    """HS384 and HS512, each with its own tokens alone."""
    for algorithm in ("HS384", "HS512"):
        tokens = world.tokens(algorithm=algorithm)
        made = tokens.create_access_token({"sub": "carol"})
        assert jwt.get_unverified_header(made)["alg"] == algorithm
        assert tokens.verify(made).subject == "carol"
        assert is_refused(await (await world.client()).get("/me", headers=bearer(made)))


async def test_a_deleted_user_is_refused(world: World, client: httpx.AsyncClient) -> None:
    """From the next request on, and without a restart."""
    token = (await login(client)).json()["access_token"]
    assert (await client.get("/me", headers=bearer(token))).status_code == 200
    remove_user(world.users_file, "carol")
    assert is_refused(await client.get("/me", headers=bearer(token)))
    assert is_refused(await login(client), "invalid_credentials")


async def test_a_new_password_ends_old_tokens(world: World, client: httpx.AsyncClient) -> None:
    """Whoever changes a password wants everybody else out."""
    token = (await login(client)).json()["access_token"]
    entries = json.loads(world.users_file.read_text())
    entries["carol"]["since"] = int(world.clock.now) + 1
    world.users_file.write_text(json.dumps(entries))
    assert is_refused(await client.get("/me", headers=bearer(token)))
    world.clock.now += 1
    token = (await login(client)).json()["access_token"]
    assert (await client.get("/me", headers=bearer(token))).status_code == 200


async def test_a_logout_holds_for_all_workers(world: World) -> None:
    """The token is gone everywhere; a second logout with it is refused like anything else."""
    one, other = await world.client(), await world.client()
    token = (await login(one)).json()["access_token"]
    assert (await other.get("/me", headers=bearer(token))).status_code == 200
    out = await one.post("/api/v1/auth/logout", headers=bearer(token))
    assert (out.status_code, out.json()) == (200, {"message": "Logged out"})
    for client in (one, other):
        assert is_refused(await client.get("/me", headers=bearer(token)))
        assert is_refused(await client.post("/api/v1/auth/logout", headers=bearer(token)))


async def test_a_logout_needs_a_token(client: httpx.AsyncClient) -> None:
    """There is nothing to end without one."""
    assert is_refused(await client.post("/api/v1/auth/logout"), "not_authenticated")


async def fail(client: httpx.AsyncClient, name: str, times: int) -> list[int]:
    return [(await login(client, name, "wrong")).status_code for _ in range(times)]


def waits(response: httpx.Response) -> int:
    assert response.status_code == 429
    assert response.json()["code"] == "too_many_logins"
    return int(response.headers["Retry-After"])


async def test_guessing_ends_soon(world: World, client: httpx.AsyncClient) -> None:
    """Five wrong passwords, then even the right one waits exactly as long as it is told."""
    assert await fail(client, "carol", 6) == [401] * 5 + [429]
    world.clock.now += 100.5
    wait = waits(await login(client))
    assert wait == WINDOW - 100
    world.clock.now += wait - 2
    assert waits(await login(client)) == 2
    world.clock.now += 2
    assert (await login(client)).status_code == 200


async def test_the_limit_is_no_longer_for_those_who_ask_again(
    world: World, client: httpx.AsyncClient
) -> None:
    """Refused attempts do not prolong the wait."""
    await fail(client, "carol", 5)
    for _ in range(10):
        world.clock.now += 80
        await login(client)
    assert waits(await login(client)) == WINDOW - 800


async def test_the_tight_limit_is_for_both_together(world: World) -> None:
    """Others from the same address, and the same user from elsewhere, get in."""
    here, elsewhere = await world.client(), await world.client("198.51.100.1")
    await fail(here, "carol", 5)
    assert waits(await login(here))
    assert (await login(here, "dave")).status_code == 200
    assert (await login(elsewhere)).status_code == 200


async def test_strangers_are_limited_like_users(client: httpx.AsyncClient) -> None:
    """The limit does not tell who is a user."""
    assert await fail(client, "nobody", 6) == [401] * 5 + [429]


async def test_a_success_forgives(client: httpx.AsyncClient) -> None:
    """Typing slips before a right password do not add up over the day."""
    for _ in range(3):
        assert await fail(client, "carol", 4) == [401] * 4
        assert (await login(client)).status_code == 200


async def test_a_user_is_limited_from_anywhere(world: World) -> None:
    """Many addresses make fifty guesses at one user, not five each."""
    app = make_app(await world.worker())
    statuses = []
    for number in range(11):
        client = await world.client(f"192.0.2.{number}", app)
        statuses += await fail(client, "carol", 5)
    assert statuses == [401] * 50 + [429] * 5
    assert (await login(client, "dave")).status_code == 200


async def test_an_address_is_limited_as_anyone(world: World, client: httpx.AsyncClient) -> None:
    """One address makes fifty guesses at many users, and an own account does not buy more."""
    statuses = []
    for number in range(55):
        statuses += await fail(client, f"user-{number}", 1)
        if number < 40:
            assert (await login(client, "dave")).status_code == 200
    assert statuses == [401] * 50 + [429] * 5
    assert (await login(await world.client("198.51.100.1"), "dave")).status_code == 200


async def test_guesses_at_once_are_counted(world: World) -> None:
    """Fifty at once, over two workers, are five guesses."""
    clients = [await world.client(), await world.client()]
    responses = await asyncio.gather(*(login(c, "carol", "wrong") for c in clients * 12))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [401] * 5 + [429] * 19


async def test_right_passwords_at_once_all_get_in(world: World) -> None:
    """A program that logs in many times, and a class behind one address, use up nothing."""
    clients = [await world.client() for _ in range(4)]  # of four workers
    names = ["carol"] * 5 + ["dave"]
    responses = await asyncio.gather(*(login(c, name) for name in names for c in clients))
    assert {response.status_code for response in responses} == {200}
    assert await fail(clients[0], "carol", 6) == [401] * 5 + [429]


class Watched(Passwords):
    def __init__(self, cost: int) -> None:
        super().__init__(cost)
        self.asked = asyncio.Event()

    async def matches(self, password: str, stored: Hash | None) -> bool:
        self.asked.set()
        return await super().matches(password, stored)


async def test_a_client_that_leaves_has_had_its_guess(world: World) -> None:
    """Hanging up before the answer does not make the guess free."""
    passwords = Watched(cost=10)
    client = await world.client(app=make_app(await world.worker(passwords)))
    for _ in range(5):
        guess = asyncio.create_task(login(client, "nobody", "wrong"))
        await passwords.asked.wait()
        passwords.asked.clear()
        guess.cancel()
        with pytest.raises(asyncio.CancelledError):
            await guess
    assert waits(await login(client, "nobody"))


@asynccontextmanager
async def started(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The service as it is assembled from its settings."""
    read = Settings(_env_file=None, STATE_DIR=folder, **settings)
    failures = MemoryLoginFailures()
    async with open_authentication(read, MemoryRevocations(), failures) as authentication:
        transport = httpx.ASGITransport(make_app(authentication))
        async with httpx.AsyncClient(transport=transport, base_url="http://a.example") as client:
            yield client


def contents(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.iterdir())


async def test_development_has_demo_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their passwords are printed at each start, work, and are stored nowhere."""
    printed = []
    for _ in range(2):
        async with started(tmp_path) as client:
            said = capsys.readouterr().out.splitlines()
            printed.append(said)
            for line in said:
                name, password = line.removeprefix("Demo user ").split(", password ")
                assert (await login(client, name, password)).status_code == 200
                assert is_refused(await login(client, name, "wrong"), "invalid_credentials")
                assert password not in contents(tmp_path)
    assert len(printed[0]) == 2
    assert printed[0] == printed[1]


async def test_a_token_outlives_a_restart(tmp_path: Path) -> None:
    """The key is kept, so nobody has to log in again."""
    settings = Settings(_env_file=None, STATE_DIR=tmp_path)
    async with started(tmp_path) as client:
        token = (await login(client, "bob", demo_password(signing_key(settings), "bob"))).json()
    async with started(tmp_path) as client:
        me = await client.get("/me", headers=bearer(token["access_token"]))
        assert me.json() == "bob"


async def test_one_worker_speaks_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The passwords are printed once, however many workers start."""
    async with started(tmp_path), started(tmp_path), started(tmp_path):
        assert len(capsys.readouterr().out.splitlines()) == 2


async def test_production_has_no_demo_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only who is in the users file gets in."""
    set_password(tmp_path / "users.json", "carol", RIGHT, cost=4)
    production = {"ENVIRONMENT": "production", "SECRET_KEY": KEY}
    async with started(tmp_path, **production) as client:
        demo = demo_password(SecretStr(KEY), "alice")
        assert is_refused(await login(client, "alice", demo), "invalid_credentials")
        assert (await login(client)).status_code == 200
    assert capsys.readouterr().out == ""


async def test_the_schema_tells_how_to_log_in(client: httpx.AsyncClient) -> None:
    """Forms, tokens, refusals and their headers are documented."""
    schema = (await client.get("/openapi.json")).json()
    doing = schema["paths"]["/api/v1/auth/login"]["post"]
    assert list(doing["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]
    assert set(doing["responses"]) == {"200", "401", "413", "422", "429", "500", "503"}
    assert "WWW-Authenticate" in doing["responses"]["401"]["headers"]
    assert "Retry-After" in doing["responses"]["429"]["headers"]
    assert schema["paths"]["/me"]["get"]["security"] == [{"HTTPBearer": []}]
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
