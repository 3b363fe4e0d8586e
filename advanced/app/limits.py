"""Rate limits: how often, counted over a window that moves, and who it is that asks.

A window that starts anew each minute lets twice the limit through around its edge. Here each
request let through is remembered for exactly one window, so that no stretch of that length holds
more than the limit, wherever it starts. It costs some ten bytes for each.
"""

import hashlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, Protocol

from .redis_link import RedisAway, RedisLink

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Clock = Callable[[], float]

SECOND = 1_000_000
"""In microseconds, which Redis counts in, too."""

KEYS = 100_000
"""Of the limiter in memory. Beyond that the longest idle key is forgiven early."""

HIT = """
local limit, window, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'list' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end

local function hit_at(index)
    local hit = redis.call('LINDEX', KEYS[1], index)
    return hit and (tonumber(hit) or 0)
end
local oldest = hit_at(0)
while oldest and oldest <= now - window do
    redis.call('LPOP', KEYS[1])
    oldest = hit_at(0)
end
local used = redis.call('LLEN', KEYS[1])
if used < limit then
    redis.call('RPUSH', KEYS[1], string.format('%.0f', now))
    redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
    return {1, limit - used - 1, string.format('%.0f', (oldest or now) + window - now)}
end
return {0, 0, string.format('%.0f', hit_at(used - limit) + window - now)}
"""


@dataclass(frozen=True)
class Verdict:
    """What a limiter says to one request."""

    allowed: bool
    limit: int
    window: int
    """Seconds."""
    remaining: int
    """Requests that would be let through right now."""
    reset: int
    """Whole seconds, at least 1, until there is one more."""
    scope: Literal["shared", "worker"]
    """Who counts: all workers together, or this one alone."""

    @property
    def retry_after(self) -> int | None:
        """Whole seconds after which the next request is let through; None if this one was."""
        return None if self.allowed else self.reset


class RateLimiter(Protocol):
    async def hit(self, key: str) -> Verdict:
        """Spend one request of `key`'s allowance. A refused request spends nothing."""


class MemoryLimiter:
    """Counts in this process. Keys that have been idle for a window are forgotten."""

    def __init__(self, limit: int, window: int, *, clock: Clock = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._hits: OrderedDict[bytes, deque[int]] = OrderedDict()  # longest idle first

    def __len__(self) -> int:
        """The keys it knows."""
        return len(self._hits)

    async def hit(self, key: str) -> Verdict:
        now = round(self._clock() * SECOND)
        past = now - self._window * SECOND
        self._forget_idle(past)
        name = digest(key)
        hits = self._hits.setdefault(name, deque())
        while hits and hits[0] <= past:
            hits.popleft()
        allowed = len(hits) < self._limit
        if allowed:
            hits.append(now)
            self._hits.move_to_end(name)
        return Verdict(
            allowed=allowed,
            limit=self._limit,
            window=self._window,
            remaining=self._limit - len(hits),
            reset=whole_seconds(hits[0] - past, self._window),
            scope="worker",
        )

    def _forget_idle(self, past: int) -> None:
        while self._hits:
            longest_idle = next(iter(self._hits.values()))
            if longest_idle[-1] > past and len(self._hits) < KEYS:
                return
            self._hits.popitem(last=False)


class RedisLimiter:
    """Counts in Redis, for all workers; in this process alone while Redis is away.

    Time is Redis' own, so that workers agree on it, unless a clock is given. Limiters with
    different limits need different names.
    """

    def __init__(
        self,
        redis: RedisLink,
        limit: int,
        window: int,
        *,
        name: str = "default",
        clock: Clock | None = None,
    ) -> None:
        self._redis = redis
        self._limit = limit
        self._window = window
        self._name = name
        self._clock = clock
        self._meanwhile = MemoryLimiter(limit, window, clock=clock or time.monotonic)

    async def hit(self, key: str) -> Verdict:
        now = "" if self._clock is None else str(round(self._clock() * SECOND))
        try:
            allowed, remaining, wait = await self._redis.script(
                HIT,
                [f"limit:{self._name}:{digest(key).hex()}"],
                [str(self._limit), str(self._window * SECOND), now],
            )
        except RedisAway:
            return await self._meanwhile.hit(key)
        return Verdict(
            allowed=bool(allowed),
            limit=self._limit,
            window=self._window,
            remaining=remaining,
            reset=whole_seconds(int(wait), self._window),
            scope="shared",
        )


def digest(key: str) -> bytes:
    """A key may be long, and may name a person: neither belongs in a store."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def whole_seconds(wait: int, window: int) -> int:
    """Rounded up, so that waiting that long is enough; a clock set back does not stretch it."""
    return min(max(1, math.ceil(wait / SECOND)), window)


def limit_headers(verdict: Verdict, policy: str = "default") -> dict[str, str]:
    """RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11, and Retry-After.

    They go on answers and on refusals; Retry-After on refusals alone. `policy` is a plain name.
    """
    headers = {
        "RateLimit-Policy": f'"{policy}";q={verdict.limit};w={verdict.window}',
        "RateLimit": f'"{policy}";r={verdict.remaining};t={verdict.reset}',
    }
    if verdict.retry_after is not None:
        headers["Retry-After"] = str(verdict.retry_after)
    return headers


def client_address(
    peer: str | None, forwarded_for: Sequence[str], proxies: Sequence[Network]
) -> str:
    """Who asks: the nearest address that is not one of our proxies.

    `peer` is who is connected (None for a Unix socket), `forwarded_for` the values of all
    X-Forwarded-For headers, in order. Anybody can write anything there; only its right end is
    added by our own proxies. So it is read from there, and no further than the first stranger.
    """
    address = as_address(peer or "")
    if address is None:
        return peer or "unknown"
    hops = [hop for value in forwarded_for for hop in value.split(",")]
    for hop in reversed(hops):
        if not any(address in network for network in proxies):
            break
        before = as_address(hop)
        if before is None:
            break
        address = before
    return str(address)


def as_address(text: str) -> Address | None:
    """An address, also with a port; IPv4 in IPv6's clothes is IPv4, and zones mean nothing."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def household(address: str) -> str:
    """What to limit by: an IPv6 customer has 2**64 addresses, so theirs count as one."""
    parsed = as_address(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False))
    return address
