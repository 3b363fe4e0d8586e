"""Users, passwords and the counting of failed logins, each by itself."""

import asyncio
import json
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import bcrypt
import pytest
from pydantic import SecretStr

from advanced.app.database import Database
from advanced.app.login_failures import (
    WINDOW,
    Allowance,
    Clock,
    LoginFailures,
    MemoryLoginFailures,
    StoredLoginFailures,
    allowances,
    network_of,
)
from advanced.app.passwords import MAX_WAITING, THREADS, Passwords, digest, hash_password
from advanced.app.security import Tokens
from advanced.app.users import Users, demo_password, read_users, remove_user, set_password
from shared.errors import ConfigurationError, Overloaded
from tests.serving import ROOT

PASSWORD = "an-example-password"
PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nZXhhbXBsZS1leGFtcGxl\n-----END PUBLIC KEY-----\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_user(path: Path, *arguments: str, typed: str = PASSWORD) -> subprocess.Popen[str]:
    """`make user` as the Makefile calls it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "advanced.app.users", *arguments],
        cwd=ROOT,
        env={"USERS_FILE": str(path), "STATE_DIR": str(path.parent), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(typed + "\n")
    process.stdin.flush()
    return process


def test_make_user_writes_a_hash(tmp_path: Path) -> None:
    """The password comes in on the input; the file has its hash, for its owner alone."""
    path = tmp_path / "users.json"
    out, err = make_user(path, "carol").communicate(timeout=60)
    assert out.startswith("carol is in ")
    assert not err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in path.read_text()
    stored = read_users(path)["carol"]["hash"].encode()
    assert bcrypt.checkpw(digest(PASSWORD), stored)
    assert stored.startswith(b"$2b$12$")


def test_users_made_at_once_are_all_kept(tmp_path: Path) -> None:
    """Two administrators do not undo each other's work, and nobody reads half a file."""
    path = tmp_path / "users.json"
    names = [f"user-{number}" for number in range(6)]
    at_work = [make_user(path, name) for name in names]
    while any(process.poll() is None for process in at_work):
        assert isinstance(read_users(path), dict)
    for process in at_work:
        process.communicate()
    assert set(read_users(path)) == set(names)
    assert {file.name for file in tmp_path.iterdir()} == {"users.json", "users.json.lock"}


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (["../carol"], PASSWORD, "NAME must be"),
        (["carol"], "short", "A password has 8 to 1024 characters."),
        (["carol"], "", "A password has 8 to 1024 characters."),
        (["carol", "--remove"], "", "There is no such user."),
    ],
)
def test_make_user_refuses(tmp_path: Path, arguments: list[str], typed: str, said: str) -> None:
    """A refusal is one sentence and an exit code, and leaves no user behind."""
    process = make_user(tmp_path / "users.json", *arguments, typed=typed)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert read_users(tmp_path / "users.json") == {}


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Users come and go without a restart."""
    path = tmp_path / "users.json"
    users = Users(path)
    assert users.find("carol") is None
    set_password(path, "carol", PASSWORD, cost=4)
    record = users.find("carol")
    assert record
    assert record.since == pytest.approx(time.time(), abs=5)
    assert record.hash().decode() not in repr(record)
    remove_user(path, "carol")
    assert users.find("carol") is None


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"carol": "secret"}', json.dumps({"carol": {"hash": "x", "since": 0}})]
)
def test_a_broken_users_file_lets_nobody_in(tmp_path: Path, content: str) -> None:
    """It is named, without what is in it."""
    path = tmp_path / "users.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"^USERS_FILE: ") as refused:
        Users(path).find("carol")
    assert "secret" not in str(refused.value)


def test_demo_passwords_follow_from_the_key_alone() -> None:
    """All workers and starts agree on them, and another key has others."""
    key, other = SecretStr("k" * 32), SecretStr("l" * 32)
    passwords = [demo_password(key, "alice"), demo_password(key, "bob")]
    assert passwords == [demo_password(key, "alice"), demo_password(key, "bob")]
    assert len({*passwords, demo_password(other, "alice")}) == 3
    assert all(len(password) == 20 for password in passwords)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x" * 72, "x" * 73),
        ("x" * 100 + "a", "x" * 100 + "b"),
        ("before\0after", "before\0other"),
        ("", "\0"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}" * 40, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 41),
    ],
)
async def test_every_character_of_a_password_counts(one: str, other: str) -> None:
    """Neither bcrypt's 72 bytes nor a NUL ends a password."""
    async with Passwords(cost=4) as passwords:
        stored = hash_password(one, 4)
        assert await passwords.matches(one, lambda: stored)
        assert not await passwords.matches(other, lambda: stored)


async def test_a_lone_surrogate_is_a_wrong_password() -> None:
    """What cannot be UTF-8 is no error."""
    async with Passwords(cost=4) as passwords:
        assert not await passwords.matches("\ud800", None)


async def test_strangers_take_as_long() -> None:
    """Checking nobody's password takes the time of checking somebody's, and never matches."""
    async with Passwords(cost=10) as passwords:
        stored = hash_password(PASSWORD, 10)
        times: dict[bool, list[float]] = {True: [], False: []}
        for known in (True, False) * 5:
            started = time.perf_counter()
            assert not await passwords.matches("wrong", (lambda: stored) if known else None)
            times[known].append(time.perf_counter() - started)
    assert 0.5 < min(times[True]) / min(times[False]) < 2


async def test_the_event_loop_goes_on_meanwhile() -> None:
    """Hashing happens elsewhere."""
    async with Passwords() as passwords:
        checked = asyncio.create_task(passwords.matches("wrong", None))
        turns = 0
        while not checked.done():
            await asyncio.sleep(0.001)
            turns += 1
    assert turns > 10


async def test_the_queue_is_bounded() -> None:
    """One login too many is told to come back, and a place that was left is free again."""
    async with Passwords(cost=4) as passwords:
        with ExitStack() as taken:
            for _ in range(MAX_WAITING):
                taken.enter_context(passwords.place())
            with pytest.raises(Overloaded) as refused, passwords.place():
                pass
        assert refused.value.retry_after
        with passwords.place():
            pass


async def test_leaving_frees_no_thread_that_is_busy() -> None:
    """Clients that leave cannot pile up work: their thread is theirs until it is done."""
    async with Passwords() as passwords:

        async def check() -> None:
            async with passwords.thread:
                await passwords.matches("wrong", None)

        leaving = [asyncio.create_task(check()) for _ in range(THREADS)]
        await asyncio.sleep(0.01)
        for task in leaving:
            task.cancel()
        await asyncio.sleep(0.01)
        assert passwords.thread.locked()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert not passwords.thread.locked()


@pytest.mark.parametrize("key", ["x" * 31, PUBLIC_KEY])
def test_a_key_that_cannot_sign_stops_the_start(key: str) -> None:
    """PyJWT's refusal comes at the start, and not with the first login."""
    lifetime = timedelta(minutes=1)
    with pytest.raises(ConfigurationError, match=r"^SECRET_KEY ") as refused:
        Tokens(SecretStr(key), issuer="i", audience="a", lifetime=lifetime)
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("local", "local"),
    ],
)
def test_a_client_is_its_address_or_its_network(address: str, network: str) -> None:
    """Who has an IPv6 network has 2**64 addresses, and one allowance."""
    assert network_of(address) == network


def test_what_was_typed_is_not_kept() -> None:
    """Some type their password as the name: keys tell nothing, and cannot be confused."""
    keys = {a.key for a in (*allowances("carol", "192.0.2.7"), *allowances("c", "arol192.0.2.7"))}
    assert len(keys) == 6
    assert not any("carol" in key or "192" in key[:3] for key in keys)


class Time:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


A = Allowance("a", 2, forgiving=True)
B = Allowance("b", 3)


class LoginFailuresContract:
    """What every LoginFailures promises."""

    @pytest.fixture
    def clock(self) -> Time:
        return Time()

    @pytest.fixture
    async def failures(self, tmp_path: Path, clock: Time) -> AsyncIterator[LoginFailures]:
        async with self.opened(tmp_path, clock) as failures:
            yield failures

    def opened(self, folder: Path, clock: Clock) -> AbstractAsyncContextManager[LoginFailures]:
        raise NotImplementedError

    async def test_a_used_up_key_waits_for_the_end_of_its_window(
        self, failures: LoginFailures, clock: Time
    ) -> None:
        """The window begins with the first failure, and its end opens all of it."""
        assert [await failures.spend([A]) for _ in range(2)] == [0, 0]
        clock.now += 100
        assert await failures.wait([A]) == WINDOW - 100
        assert await failures.spend([A]) == WINDOW - 100
        clock.now += WINDOW - 101
        assert await failures.wait([A]) == 1
        clock.now += 1
        assert await failures.wait([A]) == 0
        assert [await failures.spend([A]) for _ in range(3)] == [0, 0, WINDOW]

    async def test_a_refused_attempt_counts_nowhere(self, failures: LoginFailures) -> None:
        """All keys are spent, or none."""
        await failures.spend([A, B])
        await failures.spend([A, B])
        for _ in range(5):
            assert await failures.spend([A, B]) == WINDOW
        assert await failures.spend([B]) == 0
        assert await failures.spend([B]) == WINDOW

    async def test_the_longest_wait_counts(self, failures: LoginFailures, clock: Time) -> None:
        """Whoever comes back after it is not refused by another key."""
        await failures.spend([A])
        clock.now += 10
        for _ in range(2):
            await failures.spend([B])
        await failures.spend([A, B])
        assert await failures.wait([A]) == WINDOW - 10
        assert await failures.wait([A, B]) == WINDOW

    async def test_a_success_takes_back_or_wipes(self, failures: LoginFailures) -> None:
        """The own attempt is taken back; the failures before it only where that is forgiving."""
        await failures.spend([A, B])
        await failures.spend([A, B])
        await failures.succeeded([A, B])
        assert [await failures.spend([A]) for _ in range(3)] == [0, 0, WINDOW]
        assert [await failures.spend([B]) for _ in range(3)] == [0, 0, WINDOW]

    async def test_a_success_after_the_window_is_no_error(
        self, failures: LoginFailures, clock: Time
    ) -> None:
        """The window may end while a password is looked at."""
        await failures.spend([A])
        clock.now += WINDOW
        await failures.spend([B])
        await failures.succeeded([A, B])
        assert [await failures.spend([B]) for _ in range(4)] == [0, 0, 0, WINDOW]


class TestMemoryLoginFailures(LoginFailuresContract):
    @asynccontextmanager
    async def opened(self, folder: Path, clock: Clock) -> AsyncIterator[LoginFailures]:
        yield MemoryLoginFailures(clock)

    async def test_ended_windows_take_no_memory(self, clock: Time) -> None:
        """Names that somebody makes up are forgotten with their windows."""
        failures = MemoryLoginFailures(clock)
        for number in range(100):
            await failures.spend([Allowance(str(number), 5)])
        clock.now += WINDOW
        await failures.spend([A])
        assert len(failures._windows) == 1


class TestStoredLoginFailures(LoginFailuresContract):
    @asynccontextmanager
    async def opened(self, folder: Path, clock: Clock) -> AsyncIterator[LoginFailures]:
        database = Database(folder / "sessions.db")
        yield StoredLoginFailures(database, clock)
        await database.close()

    async def test_workers_count_together(self, tmp_path: Path, clock: Time) -> None:
        """Many workers that count at once let exactly the allowance through."""
        databases = [Database(tmp_path / "sessions.db") for _ in range(4)]
        workers = [StoredLoginFailures(database, clock) for database in databases]
        waits = await asyncio.gather(*(worker.spend([B]) for worker in workers * 5))
        for database in databases:
            await database.close()
        assert sorted(waits) == [0] * 3 + [WINDOW] * 17
