"""The cache of answers in Redis, and one flight for equal questions (hand-out, `app/cache.py`).

Three keys for one question: `cache:{prefix}:{hash}` holds the answer; the same with `:flight` says
who is making it; with `:wanted` that another process waits. Without Redis nothing is stored, and
equal questions share a flight in each process for itself. No error of Redis reaches a caller.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from shared.errors import AgentError, Overloaded

from .flight import Answer, Flight, Source, Test, Work
from .redis_link import RedisAway, RedisLink

logger = logging.getLogger(__name__)

LEASE = 1.5
"""Seconds until a flight may be started anew whose process was killed, or lost Redis at its end."""
WANTED = 0.5
"""Seconds for which a follower's asking keeps a flight alive that nobody else waits for."""
FIRST_LOOK, LAST_LOOK = 0.01, 0.1
"""Seconds between a follower's looks: growing from the one to the other."""
OUTCOME = 2.0
"""Seconds for which followers in other processes can see how a flight ended that left nothing."""

# MGET where GET would do: it answers nil, not an error, for a key that holds something else.

CLAIM = """
local value = redis.call('MGET', KEYS[1])[1]
if value then return {'value', value} end
local flight = redis.call('MGET', KEYS[2])[1] or ''
local over = 'over:' .. ARGV[2] .. ':'
if ARGV[2] ~= '' and string.sub(flight, 1, #over) == over then
    return {'over', string.sub(flight, #over + 1)}
end
local left = redis.call('PTTL', KEYS[2])
if string.sub(flight, 1, 5) == 'held:' and left > 0 and left <= tonumber(ARGV[3]) then
    redis.call('SET', KEYS[3], '', 'PX', ARGV[4])
    return {'wait', string.sub(flight, 6)}
end
redis.call('SET', KEYS[2], 'held:' .. ARGV[1], 'PX', ARGV[3])
return {'lead', ''}
"""
RENEW = """
local flight = redis.call('MGET', KEYS[1])[1]
local mine = 'held:' .. ARGV[1]
if not flight or flight == mine then redis.call('SET', KEYS[1], mine, 'PX', ARGV[2]) end
return redis.call('EXISTS', KEYS[2])
"""
LAND = """
local mine = redis.call('MGET', KEYS[2])[1] == 'held:' .. ARGV[1]
if ARGV[3] ~= '0' then
    redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
    if mine then redis.call('DEL', KEYS[2]) end
elseif mine and ARGV[2] == '' then
    redis.call('DEL', KEYS[2])
elseif mine then
    redis.call('SET', KEYS[2], 'over:' .. ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[4])
end
"""
DELETE_IF = """
if redis.call('MGET', KEYS[1])[1] == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class CacheService:
    """Answers that may be shared. `redis` None: there is none. `ttl` in seconds.

    Not `enabled`: it keeps nothing, finds nothing, and everybody's work is their own.
    """

    def __init__(self, redis: RedisLink | None, *, ttl: int, enabled: bool = True) -> None:
        self.redis = redis
        self.ttl = ttl
        self.enabled = enabled
        self._flights: dict[str, Flight] = {}
        self._tasks: dict[asyncio.Task[None], Flight] = {}

    def _generate_key(self, prefix: str, /, *args: Any, **kwargs: Any) -> str:
        return cache_key(prefix, *args, **kwargs)

    async def get(self, prefix: str, /, *args: Any, **kwargs: Any) -> Any | None:
        """What was set under the same arguments, or None."""
        key = self._generate_key(prefix, *args, **kwargs)
        if self.redis is None or not self.enabled:
            return None
        with suppress(RedisAway):
            [raw] = await self.redis.run(lambda client: client.mget([key]))
            return unwrap(key, raw).get("value")
        return None

    async def set(
        self, prefix: str, value: Any, /, ttl: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Keep a value that JSON can hold for `ttl` seconds, by default CACHE_TTL."""
        key = self._generate_key(prefix, *args, **kwargs)
        envelope = wrap(key, value=value)
        seconds = self.ttl if ttl is None else ttl
        if self.redis is None or not self.enabled or seconds < 1:
            return
        with suppress(RedisAway):
            await self.redis.run(lambda client: client.set(key, envelope, ex=seconds))

    @asynccontextmanager
    async def answer(
        self,
        key: str,
        work: Work,
        *,
        keep: Test = lambda _: True,
        believe: Test = lambda _: True,
    ) -> AsyncIterator[Answer]:
        """The answer to the question that `key` (see `cache_key`) stands for, made once for all.

        It is looked up, else awaited from whoever makes it, else made by `work`. It is kept for
        CACHE_TTL if `keep` says so of its value, and taken from others if they made it and
        `believe` says so: anybody may have written to Redis. An error, and a value that is not
        kept, reaches all who wait at that time. Leaving the block early harms nobody; when the
        last has left, in all processes, the work is cancelled, at most a second later.
        """
        flight = earlier = self._flights.get(key)
        first = flight is None or flight.landed
        if flight is None or flight.landed:  # it is over, but for its last word to Redis
            flight = self._start(Flight(key, work, keep, believe), after=earlier)
        try:
            with flight.joined():
                yield Answer(flight, first=first)
        finally:
            if flight.stopped:
                self._forget(flight)  # who asks now starts anew

    async def aclose(self) -> None:
        """End all flights; who still waits gets Overloaded."""
        tasks = dict(self._tasks)
        for flight in tasks.values():
            flight.fail(Overloaded("The service is shutting down.", retry_after=5))
            flight.stop()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, flight: Flight, after: Flight | None) -> Flight:
        flight.task = asyncio.create_task(self._fly(flight, after))
        flight.task.add_done_callback(self._over)
        self._tasks[flight.task] = flight
        if self.enabled:
            self._flights[flight.key] = flight
        return flight

    def _over(self, task: asyncio.Task[None]) -> None:
        flight = self._tasks.pop(task)
        self._forget(flight)
        flight.fail(AgentError())  # it was cancelled, and not by us: nobody may wait for ever

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    async def _fly(self, flight: Flight, after: Flight | None) -> None:
        try:
            if after is not None and after.task is not None:
                await asyncio.wait([after.task])
            if self.redis is None or not self.enabled:
                land(flight, await flight.work(flight.say))
                return
            with suppress(RedisAway):
                if await self._found(self.redis, flight):
                    return
            await self._lead(self.redis, flight)
        except Exception as exc:
            if flight.landed:
                logger.exception("An answer could not be kept")
            flight.fail(exc)  # whatever it is, it reaches those who wait

    async def _found(self, redis: RedisLink, flight: Flight) -> bool:
        """Land the flight with what is stored or what others make; False if it is ours to make."""
        leader, pause = b"", FIRST_LOOK
        while True:
            reply, text = await redis.script(
                CLAIM,
                [flight.key, *beside(flight)],
                [flight.token, leader, milliseconds(LEASE), milliseconds(WANTED)],
            )
            match reply:
                case b"lead":
                    return False
                case b"wait":
                    leader = text
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LAST_LOOK)
                case b"value":
                    if take_value(flight, text, "shared" if leader else "stored"):
                        return True
                    logger.warning("A cached value that is not ours was removed: %s", flight.key)
                    await redis.script(DELETE_IF, [flight.key], [text])
                case _:  # over, and nothing was stored
                    if take_value(flight, text, "shared") or take_error(flight, text):
                        return True
                    leader = b""

    async def _lead(self, redis: RedisLink, flight: Flight) -> None:
        """Make the answer, for this process and for those that follow."""
        flight.wanted_elsewhere = True  # perhaps: `_hold` finds out
        holder = asyncio.create_task(self._hold(redis, flight))
        left, ttl = b"", 0  # nothing, if it is cancelled or has a bug: a follower starts anew
        try:
            value = await flight.work(flight.say)
            left = land(flight, value)
            ttl = self.ttl if flight.keep(value) else 0
        except AgentError as exc:
            flight.fail(exc)
            left = wrap(flight.key, error=as_data(exc))
        finally:
            holder.cancel()
            with suppress(RedisAway):
                await redis.script(
                    LAND,
                    [flight.key, *beside(flight)[:1]],
                    [flight.token, left, str(ttl), milliseconds(OUTCOME)],
                )

    async def _hold(self, redis: RedisLink, flight: Flight) -> None:
        """Renew the lease; stop the flight when nobody waits any more, here and elsewhere."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(flight.deserted.wait(), LEASE / 3)
            wanted = 0
            with suppress(RedisAway):
                wanted = await redis.script(
                    RENEW, beside(flight), [flight.token, milliseconds(LEASE)]
                )
            if flight.deserted.is_set():
                if not wanted:
                    self._forget(flight)
                    flight.stop()
                    return
                await asyncio.sleep(WANTED / 2)


def cache_key(prefix: str, /, *args: Any, **kwargs: Any) -> str:
    """`cache:{prefix}:{hash}`: equal for equal arguments, in whatever order they are named.

    Raises TypeError for what JSON cannot hold.
    """
    canonical = orjson.dumps([args, kwargs], option=orjson.OPT_SORT_KEYS)
    return f"cache:{prefix}:{hashlib.sha256(canonical).hexdigest()}"


def beside(flight: Flight) -> list[str]:
    """The keys beside the answer's: who makes it, and whether others wait."""
    return [f"{flight.key}:flight", f"{flight.key}:wanted"]


def milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def wrap(key: str, **content: Any) -> bytes:
    """What is stored carries its key: a value that came under another one is found out."""
    return orjson.dumps({"key": key, **content})


def unwrap(key: str, raw: Any) -> dict[str, Any]:
    """What was wrapped under this key; {} for anything else."""
    try:
        content = orjson.loads(raw)
    except (orjson.JSONDecodeError, TypeError):
        return {}
    return content if isinstance(content, dict) and content.get("key") == key else {}


def land(flight: Flight, value: Any) -> bytes:
    """Give the value to all who wait here; returns what others may be given."""
    text = orjson.dumps(value)
    flight.land(text)
    return wrap(flight.key, value=orjson.Fragment(text))


def take_value(flight: Flight, raw: bytes, source: Source) -> bool:
    """Land the flight with what another one left. False if that is no value for its key."""
    content = unwrap(flight.key, raw)
    if "value" in content and flight.believe(content["value"]):
        flight.land(orjson.dumps(content["value"]), source)
    return flight.landed


def take_error(flight: Flight, raw: bytes) -> bool:
    error = as_error(unwrap(flight.key, raw).get("error"))
    if error is not None:
        flight.fail(error)
    return flight.landed


def as_data(error: AgentError) -> list[Any]:
    return [type(error).__name__, error.detail, error.retry_after]


def as_error(data: Any) -> AgentError | None:
    """The error that `as_data` took apart, if it is one of the family and needs no more."""
    match data:
        case [str(name), str() | None as detail, int() | None as retry_after]:
            kind = family().get(name)
            return kind(detail, retry_after=retry_after) if kind else None
    return None


def family() -> dict[str, type[AgentError]]:
    kinds, found = [AgentError], {}
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__init__ is AgentError.__init__:
            found[kind.__name__] = kind
    return found
