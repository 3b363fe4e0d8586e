"""The one way to Redis, for the cache and the limits: short waits, and none while it is away.

Redis makes this service faster and its limits shared; it is never needed to answer. So a command
has one deadline for everything, connecting included, and the first that fails or is slow opens a
circuit breaker: from then on `run` raises RedisAway at once. No request is sent ahead to see
whether Redis is back: one task per process asks, in growing intervals, and closes the breaker.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

CONNECTIONS = 16
"""Commands under way at once; more wait for their turn, and are spared if the breaker opens."""

PROBE_KEY = "probe"

TICK = 0.025
"""Seconds; what `Patience` says is in whole ones."""

Result = TypeVar("Result")

# ValueError and EOFError: whatever listens there does not speak Redis' protocol.
FAULTS = (RedisError, OSError, ValueError, EOFError)


class RedisAway(Exception):
    """Redis cannot be used now: do without. The text says why, for logs."""


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    deadline: float = 0.15
    """What a command may take in all before it is given up."""
    slow: float = 0.05
    """A reply that took longer is used, but the breaker opens: it would cost every request that."""
    first_probe: float = 0.1
    last_probe: float = 2.0
    """The pauses between probes double from the one to the other."""


def patience_within(deadline: float) -> Patience:
    """A reply is slow, and the next request spared, when it took a third of the deadline."""
    return Patience(deadline=deadline, slow=deadline / 3)


class RedisLink:
    """Redis behind a circuit breaker. Made by `open_redis`; all users in a process share one."""

    def __init__(self, client: Redis, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._away: str | None = None
        self._prober: asyncio.Task[None] | None = None
        self._attempts: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._scripts: dict[str, AsyncScript] = {}

    @property
    def away(self) -> str | None:
        """Why Redis is not used at present; None while it is."""
        return self._away

    async def check(self) -> bool:
        """Whether Redis takes writes. Costs one short command, none while the breaker is open."""
        with suppress(RedisAway):
            await self.run(write_something)
        return self._away is None

    async def script(self, text: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        """Run a Lua script, by its digest where Redis knows it. Raises RedisAway."""
        if text not in self._scripts:
            self._scripts[text] = self._client.register_script(text)
        return await self.run(lambda _: self._scripts[text](keys, arguments))

    async def run(self, command: Callable[[Redis], Awaitable[Result]]) -> Result:
        """The command's reply. Raises RedisAway, within the deadline or at once.

        The command has a task of its own, so that a caller who is cancelled does not cancel it:
        each reply is read by the command that it belongs to.
        """
        if self._away is not None:
            raise RedisAway(self._away)
        attempt = asyncio.create_task(self._attempt(command))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._over)
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise RedisAway("The connection is being closed")
        return attempt.result()

    async def _attempt(self, command: Callable[[Redis], Awaitable[Result]]) -> Result:
        async with self._slots:
            if self._away is not None:
                raise RedisAway(self._away)
            try:
                async with waiting(self._patience.deadline) as wait:
                    reply = await command(self._client)
            except FAULTS as exc:
                self._open(f"{type(exc).__name__} after {wait.seconds:.3f} s")
                raise RedisAway(self._away) from exc
            if wait.seconds >= self._patience.slow:
                self._open(f"It took {wait.seconds:.3f} s to answer")
            return reply

    def _over(self, attempt: asyncio.Task[Any]) -> None:
        self._attempts.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # seen: its caller may have gone

    def _open(self, reason: str) -> None:
        if self._away is None:
            self._away = reason
            logger.warning("Redis is not used from here on: %s", reason)
            self._prober = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Until a write succeeds, quickly; then close the breaker."""
        with suppress(RedisError):  # connections that are half dead would open it again, one by one
            await self._client.connection_pool.disconnect(inuse_connections=False)
        pause = self._patience.first_probe
        while True:
            await asyncio.sleep(pause)
            with suppress(*FAULTS):
                async with waiting(self._patience.slow):
                    await write_something(self._client)
                break
            pause = min(2 * pause, self._patience.last_probe)
        self._away = None
        logger.info("Redis is used again")

    async def aclose(self) -> None:
        """Let what is under way end, at most for the deadline, and hang up."""
        self._away = "The connection is closed"
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
            self._away = "The connection is closed"  # it may just have closed the breaker
        if self._attempts:
            await asyncio.wait(self._attempts)
        with suppress(RedisError):
            await self._client.aclose()


class Wait:
    """How long Redis has been waited for, in whole TICKs.

    Not by the clock: while this process has too much to do, replies lie there unread, and Redis
    would be blamed. A tick that comes late still counts as one.
    """

    def __init__(self, limit: asyncio.Timeout, deadline: float) -> None:
        self.seconds = 0.0
        self._limit = limit
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        self.seconds += TICK
        if self.seconds >= self._deadline:
            self._limit.reschedule(self._loop.time())
        else:
            self._next = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        self._next.cancel()


@asynccontextmanager
async def waiting(deadline: float) -> AsyncIterator[Wait]:
    """Raises TimeoutError once the block has waited so long."""
    async with asyncio.timeout(None) as limit:
        wait = Wait(limit, deadline)
        try:
            yield wait
        finally:
            wait.stop()


async def write_something(client: Redis) -> None:
    """A read-only Redis, or one that is full, answers a PING and is of no use all the same."""
    await client.set(PROBE_KEY, b"", px=1000)


@asynccontextmanager
async def open_redis(
    host: str,
    port: int,
    *,
    db: int = 0,
    username: str | None = None,
    password: str | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[RedisLink]:
    """A link for as long as the block lasts. It opens whether Redis is there or not."""
    patience = patience or Patience()
    client = Redis(
        host=host,
        port=port,
        db=db,
        username=username,
        password=password,
        # By default it would try ten times, each for 5 s. The deadline of `_attempt` is the one.
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,
        socket_connect_timeout=patience.deadline,
        # `_slots` bounds them. This pool would refuse the next caller, which is no fault of Redis.
        max_connections=CONNECTIONS * 1000,
        # With protocol 3 the pool no longer refuses a connection that has an unread reply.
        protocol=2,
        driver_info=None,
    )
    link = RedisLink(client, patience)
    try:
        await link.check()  # so that the log says at the start what is the matter
        yield link
    finally:
        await link.aclose()
