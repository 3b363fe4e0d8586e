"""Logging in over HTTP: what is a login, who is told what, and how often one may fail."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from advanced.app.login_failures import FAILURES_ALONE, FAILURES_TOGETHER, WINDOW
from advanced.app.passwords import MAX_WAITING
from advanced.app.users import set_password
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import LOGIN, PASSWORDS, UVICORN, Advanced, served_advanced

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
RIGHT, WRONG = PASSWORDS["carol"], "not-the-password"

addresses = map("198.51.100.{}".format, count(1))
"""One for each test: who fails often has to wait, and with them all who share the address."""


@pytest.fixture(scope="module")
def proxied(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Advanced]:
    """A service that believes proxies on this machine: clients say where they come from."""
    state = tmp_path_factory.mktemp("state")
    with served_advanced(
        checkout, state, redis=False, TRUSTED_PROXIES="127.0.0.0/8,10.0.0.0/8"
    ) as service:
        yield service


@pytest.fixture(params=["by serve", "by hand"], scope="module")
def direct(
    request: pytest.FixtureRequest, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Advanced]:
    """A service without proxies; uvicorn by itself would believe everybody on this machine."""
    state = tmp_path_factory.mktemp("state")
    command = {"command": UVICORN} if request.param == "by hand" else {}
    with served_advanced(checkout, state, redis=False, **command) as service:  # type: ignore[arg-type]
        yield service


def make_victims(service: Advanced) -> list[str]:
    """Users whose wrong passwords are found out in no time; a stranger's takes a quarter second."""
    names = [f"victim-{number}" for number in range(len(SPOOFED))]
    for name in names:
        set_password(service.users_file, name, "a-real-password", cost=4)
    return names


@pytest.fixture
def client(proxied: Advanced) -> Iterator[httpx.Client]:
    with proxied.waiting_client() as client:
        client.headers["X-Forwarded-For"] = next(addresses)
        yield client


def attempt(
    client: httpx.Client, name: str = "carol", password: str = WRONG, **headers: str
) -> httpx.Response:
    return client.post(LOGIN, data={"username": name, "password": password}, headers=headers)


def told_to_wait(response: httpx.Response) -> int:
    assert (response.status_code, response.json()["code"]) == (429, "too_many_logins")
    return int(response.headers["Retry-After"])


def test_a_login_lets_one_ask(proxied: Advanced, client: httpx.Client) -> None:
    """The answer is a bearer token, how long it lasts, and not for any cache."""
    response = attempt(client, "carol", RIGHT)
    assert response.status_code == 200
    assert set(response.json()) == {"access_token", "token_type", "expires_in"}
    assert (response.json()["token_type"], response.json()["expires_in"]) == ("bearer", 1800)
    assert response.headers["Cache-Control"] == "no-store"
    with proxied.waiting_client(response.json()["access_token"]) as user:
        assert user.post("/api/v1/query", json={"query": "hello"}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"username": "carol", "password": RIGHT}},
        {"params": {"username": "carol", "password": RIGHT}},
        {"auth": ("carol", RIGHT)},
        {"data": {"username": "carol"}},
        {"data": {"password": RIGHT}},
        {"data": {"username": "carol", "password": ""}},
        {"data": {"username": "carol", "password": "x" * 1025}},
        {"data": {"username": "c" * 1025, "password": RIGHT}},
        {"data": {"username": "carol"}, "files": {"password": RIGHT.encode()}},
        {"content": f"username=carol&password={RIGHT}", "headers": {"Content-Type": "text/plain"}},
        {"content": f"username=carol&password={RIGHT}"},
        {"content": b"\xff\xfe=%ff&%=%&&&;", "headers": FORM},
        {"content": b"username=" + b"a=" * 5000, "headers": FORM},
        {"content": b"&".join([b"a=1"] * 5000), "headers": FORM},
        {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
    ],
    ids=lambda sent: ascii(sent)[:40],
)
def test_a_login_is_a_form(client: httpx.Client, sent: dict[str, Any]) -> None:
    """Anything else is a 422 that repeats nothing."""
    response = client.post(LOGIN, **sent)
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    assert RIGHT not in response.text
    assert "carol" not in response.text


def test_a_login_of_70_kb_is_too_large(client: httpx.Client) -> None:
    """A form has the limit of every body."""
    response = attempt(client, "carol", "x" * 70_000)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("password", "nearly"),
    [
        ("p" * 72 + "one", "p" * 72 + "two"),
        ("p" * 1024, "p" * 1023),
        ("before\0after", "before\0other"),
        ("\0" * 8, "\0" * 9),
        ("pass\u00e9word", "passe\u0301word"),
        ("\u4e16\U0001f642" * 8, "\u4e16\U0001f643" * 8),
        ("  white space  ", "white space"),
        ("a+b&c=d%20;e", "a b&c=d ;e"),
        ("\ufeff12345678", "12345678"),
    ],
    ids=ascii,
)
def test_every_character_of_a_password_counts(
    proxied: Advanced, client: httpx.Client, password: str, nearly: str
) -> None:
    """Long ones to their end, NUL, white space and all of Unicode."""
    set_password(proxied.users_file, "erin", password, cost=4)
    assert attempt(client, "erin", nearly).status_code == 401
    assert attempt(client, "erin", password).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["carol\0", " carol", "CAROL", "c\u0430rol", "carol\u200b", "\ud83d", "'; --", "x" * 999],
    ids=lambda name: ascii(name)[:20],
)
def test_a_name_is_exactly_that(client: httpx.Client, name: str) -> None:
    """What looks like a user's name is not theirs, and hears what every stranger does."""
    form = {"username": name.encode("utf-8", "surrogatepass"), "password": RIGHT}
    response = client.post(LOGIN, data=form)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_credentials")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_strangers_are_told_and_kept_waiting_like_users(
    proxied: Advanced, client: httpx.Client
) -> None:
    """The same words in the same time, whether or not there is such a user."""
    names = [f"someone-{number}" for number in range(4)]
    for name in names:
        set_password(proxied.users_file, name, "a-real-password")  # as expensive as real ones
    took: dict[bool, list[float]] = {True: [], False: []}
    said = set()
    for number in range(12):
        known = number % 2 == 0
        name = names[number % 4] if known else f"nobody-{number % 4}"
        started = time.perf_counter()
        response = attempt(client, name, WRONG, **{"X-Forwarded-For": f"203.0.113.{number}"})
        took[known].append(time.perf_counter() - started)
        said.add((response.status_code, response.content, *sorted(set(response.headers))))
    users, strangers = (statistics.median(took[known]) for known in (True, False))
    assert len(said) == 1
    assert 0.5 < strangers / users < 2, took


# --- how often it may fail


def test_guessing_ends_soon(client: httpx.Client) -> None:
    """After five failures even the right password waits, no longer than the window; others not."""
    before = time.time()
    failed = [attempt(client).status_code for _ in range(FAILURES_TOGETHER)]
    wait = told_to_wait(attempt(client, "carol", RIGHT))
    assert failed == [401] * FAILURES_TOGETHER
    assert WINDOW - (time.time() - before) - 1 < wait <= WINDOW
    assert told_to_wait(attempt(client)) <= wait, "a refused attempt prolongs the wait"
    assert attempt(client, "dave", PASSWORDS["dave"]).status_code == 200
    elsewhere = {"X-Forwarded-For": next(addresses)}
    assert attempt(client, "carol", RIGHT, **elsewhere).status_code == 200


def test_one_address_guesses_at_many_users(proxied: Advanced, client: httpx.Client) -> None:
    """Fifty failures of one address, as whoever; then it waits, also with a right password."""
    victims = make_victims(proxied)
    statuses = [
        attempt(client, victims[number // 4]).status_code for number in range(FAILURES_ALONE)
    ]
    assert set(statuses) == {401}
    assert told_to_wait(attempt(client, "dave", PASSWORDS["dave"])) <= WINDOW


async def test_guesses_at_once_are_counted_by_both_workers(serve: Serve) -> None:
    """As many guesses at the same moment as one worker lets wait, over two, are five guesses."""
    service = serve(WORKERS="2", redis=False)
    guess = {"data": {"username": "carol", "password": WRONG}}
    clients = [service.client() for _ in range(8)]  # the system shares out connections as it likes
    guesses = (clients[number % 8].post(LOGIN, **guess) for number in range(MAX_WAITING))  # type: ignore[arg-type]
    replies = await asyncio.gather(*guesses)
    for client in clients:
        await client.aclose()
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [401] * FAILURES_TOGETHER + [429] * (MAX_WAITING - FAILURES_TOGETHER)


# --- where it comes from


SPOOFED = [
    "192.0.2.{n}",
    "192.0.2.{n}:1234",
    "192.0.2.{n}:0012",
    "[2001:db8:{n}::1]",
    "[2001:db8:{n}::1]:443",
    "2001:db8:{n}::1",
    "192.0.2.{n}, 127.0.0.1",
    "192.0.2.{n}:5, 127.0.0.1",
    "192.0.2.{n}, 127.0.0.1:99",
    "127.0.0.1, 192.0.2.{n}",
    "127.0.0.{n}",
    "127.0.0.{n}:80, 127.0.0.1",
    "client-{n}",
    "unknown, _{n}",
    '"192.0.2.{n}"',
    "::ffff:192.0.2.{n}",
]


def test_nobody_says_where_they_come_from(direct: Advanced) -> None:
    """Without a proxy of ours no spelling of X-Forwarded-For buys more guesses."""
    victims = make_victims(direct)
    with direct.waiting_client() as client:
        for number, (name, spelling) in enumerate(zip(victims, SPOOFED, strict=True)):
            forwarded = [spelling.format(n=n) for n in range(1, FAILURES_TOGETHER + 2)]
            statuses = [
                attempt(client, name, **{"X-Forwarded-For": value}).status_code
                for value in forwarded
            ]
            if number * FAILURES_TOGETHER < FAILURES_ALONE:  # then this machine's are used up, too
                assert statuses == [401] * FAILURES_TOGETHER + [429], spelling
            else:
                assert statuses == [429] * len(forwarded), spelling
        other = {"Forwarded": "for=192.0.2.1", "X-Real-IP": "192.0.2.1", "X-Client-IP": "192.0.2.1"}
        told_to_wait(attempt(client, "dave", PASSWORDS["dave"], **other))


def test_our_proxies_are_believed_and_nobody_before_them(client: httpx.Client) -> None:
    """Of several hops the last one that is not ours counts, whatever the client wrote first."""
    real = next(addresses)
    for n in range(FAILURES_TOGETHER):
        forwarded = f"192.0.2.{n}, {real}:{5000 + n}, 10.0.0.{n}"
        assert attempt(client, **{"X-Forwarded-For": forwarded}).status_code == 401
    told_to_wait(attempt(client, **{"X-Forwarded-For": f"{real}, 10.1.2.3"}))
    told_to_wait(attempt(client, **{"X-Forwarded-For": f"carol, ::ffff:{real}"}))
    other = {"X-Forwarded-For": f"{real}, {next(addresses)}"}
    assert attempt(client, **other).status_code == 401
