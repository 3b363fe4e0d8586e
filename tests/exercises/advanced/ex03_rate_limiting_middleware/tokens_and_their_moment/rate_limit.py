"""Classic token bucket: tokens and time of the last refill, in a hash."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.limits import Network, Verdict, client_address, digest, household, limit_headers
from shared.models import ErrorResponse
from shared.web.errors import as_json
from shared.web.middleware import ResponseHeaders

UserOf = Callable[[Scope], Awaitable[str | None]]
uncounted = Counter(
    "rate_limit_uncounted", "Requests that were let through because Redis did not count them"
)

TAKE = """
local key = KEYS[1]
local rate = tonumber(ARGV[1])
local capacity = tonumber(ARGV[2])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local data = redis.call('HMGET', key, 'tokens', 'ts')
local tokens = tonumber(data[1]) or capacity
local ts = tonumber(data[2]) or now
tokens = math.min(capacity, tokens + math.max(0, now - ts) * rate)
local allowed = 0
if tokens >= 1 then
    allowed = 1
    tokens = tokens - 1
    local left, at = string.format('%.9f', tokens), string.format('%.6f', now)
    redis.call('HSET', key, 'tokens', left, 'ts', at)
    redis.call('PEXPIRE', key, math.ceil((capacity - tokens) / rate * 1000))
end
local missing = (math.floor(tokens) + 1 - tokens) / rate
return {allowed, math.floor(tokens), tostring(missing)}
"""


class RedisAway(Exception):
    pass


def connect(settings: Settings) -> Redis:
    password = settings.REDIS_PASSWORD
    pool = BlockingConnectionPool(
        host=settings.REDIS_HOST or "127.0.0.1",
        port=settings.REDIS_PORT,
        db=settings.REDIS_DB,
        password=password.get_secret_value() if password else None,
        max_connections=20,
        timeout=5,
        retry=None,
    )
    return Redis(connection_pool=pool)


class TokenBuckets:
    def __init__(
        self, redis: Redis, *, per_second: float, burst: int, timeout: float, pause: float
    ) -> None:
        self.redis = redis
        self.per_second = per_second
        self.burst = burst
        self.timeout = timeout
        self.pause = pause
        self._script = redis.register_script(TAKE)
        self._ask_again = 0.0

    async def take(self, caller: str) -> Verdict:
        if time.monotonic() < self._ask_again:
            raise RedisAway("paused")
        try:
            async with asyncio.timeout(self.timeout):
                allowed, left, missing = await self._script(
                    keys=[f"bucket:{digest(caller).hex()}"], args=[self.per_second, self.burst]
                )
        except (RedisError, OSError, TimeoutError) as exc:
            self._ask_again = time.monotonic() + self.pause
            raise RedisAway("no answer") from exc
        return Verdict(
            allowed=bool(allowed),
            limit=self.burst,
            window=math.ceil(self.burst / self.per_second),
            remaining=int(left),
            reset=max(1, math.ceil(float(missing))),
            scope="shared",
        )


EXEMPT = {"/health", "/health/live", "/health/ready", "/metrics"}


class RateLimitMiddleware:
    def __init__(
        self, app: ASGIApp, *, buckets: TokenBuckets, user_of: UserOf, proxies: Sequence[Network]
    ) -> None:
        self.app = app
        self.buckets = buckets
        self.user_of = user_of
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT:
            await self.app(scope, receive, send)
            return
        try:
            verdict = await self.buckets.take(await self.caller(scope))
        except RedisAway:
            uncounted.inc()
            await self.app(scope, receive, send)
            return
        headers = limit_headers(verdict)
        if not verdict.allowed:
            body = ErrorResponse(error="Too many requests.", code="rate_limited")
            await ResponseHeaders(as_json(429, body, headers))(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self.app(scope, receive, with_headers)

    async def caller(self, scope: Scope) -> str:
        if user := await self.user_of(scope):
            return f"user:{user}"
        peer = scope["client"][0] if scope.get("client") else None
        forwarded = Headers(scope=scope).getlist("x-forwarded-for")
        return "address:" + household(client_address(peer, forwarded, self.proxies))
