"""How often logins may fail: counted before the password is looked at, for all workers."""

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Protocol

from .database import Database

Clock = Callable[[], float]
"""Unix seconds."""

WINDOW = 15 * 60
"""Seconds, from the first failed login on, after which all failures are forgotten at once."""

FAILURES_TOGETHER = 5
"""Failed logins in a window of one user from one address."""

FAILURES_ALONE = 50
"""Of one user from anywhere, or from one address as anyone. Loose, since a stranger can use up
a user's, and a class behind one router shares an address."""


@dataclass(frozen=True)
class Allowance:
    """How many logins that are counted under `key` may fail in one WINDOW."""

    key: str
    """A SHA-256: what people type as a user name is sometimes their password."""
    failures: int
    forgiving: bool = False
    """Whether a success wipes the count; elsewhere it only takes its own attempt back."""


class LoginFailures(Protocol):
    """Counts failed logins for all workers; each method sees and changes all keys in one step.

    A key's window begins with its first failure and ends WINDOW later, for all that it counted:
    then there is room for everyone again, and not for one quick stranger alone. A refused attempt
    counts nowhere, so nobody can prolong anybody's waiting.
    """

    async def wait(self, allowances: Sequence[Allowance]) -> float:
        """Seconds until every key has an attempt left: the longest wait among them, or 0."""

    async def spend(self, allowances: Sequence[Allowance]) -> float:
        """Like `wait`, and if that is 0 count one attempt under every key."""

    async def succeeded(self, allowances: Sequence[Allowance]) -> None:
        """The attempt that was spent was right: take it back, or wipe the count if forgiving."""


def allowances(username: str, address: str) -> tuple[Allowance, ...]:
    network = network_of(address)
    return (
        Allowance(counted_as("both", username, network), FAILURES_TOGETHER, forgiving=True),
        Allowance(counted_as("user", username), FAILURES_ALONE),
        Allowance(counted_as("address", network), FAILURES_ALONE),
    )


def counted_as(*what: str) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def network_of(address: str) -> str:
    """What one client can be told by: its address, in IPv6 the /64 in which it may pick any."""
    try:
        ip = ip_address(address)
    except ValueError:  # a Unix socket, or a proxy that names its clients otherwise
        return address
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or IPv6Network((int(ip), 64), strict=False))


@dataclass
class Window:
    ends: float
    failures: int = 0


class MemoryLoginFailures:
    """One worker's own."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._windows: dict[str, Window] = {}  # in the order in which they end

    async def wait(self, allowances: Sequence[Allowance]) -> float:
        now = self._clock()
        self._forget_ended(now)
        return max(0.0, *(self._ends(allowance) - now for allowance in allowances))

    async def spend(self, allowances: Sequence[Allowance]) -> float:
        wait = await self.wait(allowances)
        if wait == 0:
            ends = self._clock() + WINDOW
            for allowance in allowances:
                self._windows.setdefault(allowance.key, Window(ends)).failures += 1
        return wait

    async def succeeded(self, allowances: Sequence[Allowance]) -> None:
        for allowance in allowances:
            if window := self._windows.get(allowance.key):
                window.failures = 0 if allowance.forgiving else window.failures - 1
                if window.failures <= 0:
                    del self._windows[allowance.key]

    def _ends(self, allowance: Allowance) -> float:
        """When the next attempt is allowed; in the past if it is now."""
        window = self._windows.get(allowance.key)
        return window.ends if window and window.failures >= allowance.failures else -math.inf

    def _forget_ended(self, now: float) -> None:
        while self._windows:
            key = next(iter(self._windows))
            if self._windows[key].ends > now:
                return
            del self._windows[key]


TABLE = """
CREATE TABLE IF NOT EXISTS failed_logins (
    key TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    ends REAL NOT NULL
) WITHOUT ROWID
"""
SPEND = """
INSERT INTO failed_logins VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET failures = failures + 1
"""
TAKE_BACK = "UPDATE failed_logins SET failures = ? * (failures - 1) WHERE key = ?"


class StoredLoginFailures:
    """All workers' together, in the sessions' file: what Redis forgets when it dies is kept."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock
        self._prepared = False

    async def wait(self, allowances: Sequence[Allowance]) -> float:
        await self._prepare()
        return await self._database.read(lambda connection: self._wait(connection, allowances))

    async def spend(self, allowances: Sequence[Allowance]) -> float:
        await self._prepare()
        return await self._database.write(lambda connection: self._spend(connection, allowances))

    async def succeeded(self, allowances: Sequence[Allowance]) -> None:
        changes = [(0 if allowance.forgiving else 1, allowance.key) for allowance in allowances]

        def take_back(connection: sqlite3.Connection) -> None:
            connection.executemany(TAKE_BACK, changes)
            connection.execute("DELETE FROM failed_logins WHERE failures <= 0")

        await self._database.write(take_back)

    async def _prepare(self) -> None:
        if not self._prepared:
            await self._database.write(lambda connection: connection.execute(TABLE))
            self._prepared = True

    def _wait(self, connection: sqlite3.Connection, allowances: Sequence[Allowance]) -> float:
        now = self._clock()
        used_up = (
            connection.execute(
                "SELECT ends FROM failed_logins WHERE key = ? AND failures >= ?",
                (allowance.key, allowance.failures),
            ).fetchone()
            for allowance in allowances
        )
        return max(0.0, *(row[0] - now if row else 0.0 for row in used_up))

    def _spend(self, connection: sqlite3.Connection, allowances: Sequence[Allowance]) -> float:
        now = self._clock()
        connection.execute("DELETE FROM failed_logins WHERE ends <= ?", (now,))
        wait = self._wait(connection, allowances)
        if wait == 0:
            connection.executemany(SPEND, [(a.key, now + WINDOW) for a in allowances])
        return wait
