"""Passwords: kept as bcrypt hashes, checked in a few threads, and never quicker for a stranger."""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import bcrypt

from shared.errors import Overloaded

COST = 12
"""bcrypt's work factor: one more doubles the time, for us and for whoever stole the hashes."""

THREADS = 2
MAX_WAITING = 32
"""Logins under way in one worker, waiting ones included; the next one is told to come back."""

WAIT_SECONDS = 5
"""After which a full queue has moved on."""

Hash = Callable[[], bytes]
"""A stored hash; asked for in the pool, so that one which is still being made can be waited for."""


def digest(password: str) -> bytes:
    """44 characters for any password: bcrypt takes at most 72 bytes, and once stopped at a NUL."""
    return base64.b64encode(hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())


def hash_password(password: str, cost: int = COST) -> bytes:
    return bcrypt.hashpw(digest(password), bcrypt.gensalt(cost))


class Passwords:
    """The bounded pool. bcrypt gives up the GIL, so the event loop goes on meanwhile."""

    def __init__(self, cost: int = COST) -> None:
        self._cost = cost
        self._nobody = b"$2b$%02d$" % cost + b"." * 53  # well-formed, and no password's hash
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="bcrypt")
        self.thread = asyncio.Semaphore(THREADS)
        """To be held around `matches`: what comes before it then waits as long as it does."""
        self._under_way = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def hashed_soon(self, password: str) -> Hash:
        """Hash it in the background; the first check of it may have to wait."""
        made: Future[bytes] = self._pool.submit(hash_password, password, self._cost)
        return made.result

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for a thread. Raises Overloaded when there is none."""
        if self._under_way >= MAX_WAITING:
            raise Overloaded(retry_after=WAIT_SECONDS)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def matches(self, password: str, stored: Hash | None) -> bool:
        """Whether this is the password; without a stored hash False, after just as long."""
        checked = asyncio.wrap_future(self._pool.submit(self._matches, password, stored))
        try:
            return await asyncio.shield(checked)
        finally:  # a client that leaves must not hand on a thread that still works for it
            await asyncio.wait([checked])

    def _matches(self, password: str, stored: Hash | None) -> bool:
        hashed = stored() if stored else self._nobody
        return bcrypt.checkpw(digest(password), hashed) and stored is not None
