"""One flight for equal questions, in this process and in all others.

Two keys beside the answer's say how it is made: with `:flight` who makes it, with `:wanted` that
another process waits. Without Redis equal questions share a flight in each process for itself. No
error of Redis reaches a caller.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from shared.errors import AgentError, Overloaded

from .cache import CacheService, unwrap, wrap
from .flight import Answer, Flight, Test, Work
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
local flight = redis.call('MGET', KEYS[1])[1] or ''
local over = 'over:' .. ARGV[2] .. ':'
if ARGV[2] ~= '' and string.sub(flight, 1, #over) == over then
    return {'over', string.sub(flight, #over + 1)}
end
local left = redis.call('PTTL', KEYS[1])
if string.sub(flight, 1, 5) == 'held:' and left > 0 and left <= tonumber(ARGV[3]) then
    redis.call('SET', KEYS[2], '', 'PX', ARGV[4])
    return {'wait', string.sub(flight, 6)}
end
redis.call('SET', KEYS[1], 'held:' .. ARGV[1], 'PX', ARGV[3])
return {'lead', ''}
"""
RENEW = """
local flight = redis.call('MGET', KEYS[1])[1]
local mine = 'held:' .. ARGV[1]
if not flight or flight == mine then redis.call('SET', KEYS[1], mine, 'PX', ARGV[2]) end
return redis.call('EXISTS', KEYS[2])
"""
LAND = """
if redis.call('MGET', KEYS[1])[1] ~= 'held:' .. ARGV[1] then return end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], 'over:' .. ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[3])
end
"""


class Flights:
    """Makes each answer once, and leaves it in the cache. Not `enabled`: everybody's work is their
    own."""

    def __init__(self, cache: CacheService) -> None:
        self.cache = cache
        self._flights: dict[str, Flight] = {}
        self._tasks: dict[asyncio.Task[None], Flight] = {}

    @property
    def enabled(self) -> bool:
        return self.cache.enabled

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
            redis = self.cache.redis
            if redis is None or not self.enabled:
                land(flight, await flight.work(flight.say))
                return
            with suppress(RedisAway):
                if await self._found(redis, flight):
                    return
            await self._lead(redis, flight)
        except Exception as exc:
            if flight.landed:
                logger.exception("An answer could not be kept")
            flight.fail(exc)  # whatever it is, it reaches those who wait

    async def _found(self, redis: RedisLink, flight: Flight) -> bool:
        """Land the flight with what is stored or what others make; False if it is ours to make."""
        leader, pause = b"", FIRST_LOOK
        while not await self._stored(flight, leader):
            reply, text = await redis.script(
                CLAIM,
                beside(flight),
                [flight.token, leader, milliseconds(LEASE), milliseconds(WANTED)],
            )
            match reply:
                case b"lead":
                    if not await self._stored(flight, leader):  # since we looked
                        return False
                    await self._leave(redis, flight)
                    return True
                case b"wait":
                    leader = text
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LAST_LOOK)
                case _:  # over, and nothing was stored
                    if take_value(flight, text) or take_error(flight, text):
                        return True
                    leader = b""
        return True

    async def _stored(self, flight: Flight, leader: bytes) -> bool:
        """Land the flight with what the cache has, if that is to be believed."""
        value = await self.cache.find(flight.key)
        if value is not None and flight.believe(value):
            flight.land(orjson.dumps(value), "shared" if leader else "stored")
        return flight.landed

    async def _lead(self, redis: RedisLink, flight: Flight) -> None:
        """Make the answer, for this process and for those that follow."""
        flight.wanted_elsewhere = True  # perhaps: `_hold` finds out
        holder = asyncio.create_task(self._hold(redis, flight))
        left = b""  # nothing, if it is cancelled or has a bug: a follower starts anew
        try:
            value = await flight.work(flight.say)
            land(flight, value)
            holder.cancel()  # else it would stop what nobody waits for any more
            if flight.keep(value):
                await self.cache.keep(flight.key, value)
            else:
                left = wrap(flight.key, value=value)
        except AgentError as exc:
            flight.fail(exc)
            left = wrap(flight.key, error=as_data(exc))
        finally:
            holder.cancel()
            await self._leave(redis, flight, left)

    async def _leave(self, redis: RedisLink, flight: Flight, left: bytes = b"") -> None:
        """Say that nobody makes it any more, and what followers get if it is not in the cache."""
        with suppress(RedisAway):
            await redis.script(
                LAND, beside(flight)[:1], [flight.token, left, milliseconds(OUTCOME)]
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


def beside(flight: Flight) -> list[str]:
    """The keys beside the answer's: who makes it, and whether others wait."""
    return [f"{flight.key}:flight", f"{flight.key}:wanted"]


def milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def land(flight: Flight, value: Any) -> None:
    """Give the value to all who wait here."""
    flight.land(orjson.dumps(value))


def take_value(flight: Flight, raw: bytes) -> bool:
    """Land the flight with what its maker left. False if that is no value for its key."""
    content = unwrap(flight.key, raw)
    if "value" in content and flight.believe(content["value"]):
        flight.land(orjson.dumps(content["value"]), "shared")
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
