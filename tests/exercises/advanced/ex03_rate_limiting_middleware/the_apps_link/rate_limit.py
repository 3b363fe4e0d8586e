"""Who may ask how often: tokens as a number in a hash, behind the app's own way to Redis."""

import math
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter
from redis.asyncio import Redis
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.errors import RateLimited
from advanced.app.limits import Network, Verdict, client_address, digest, household, limit_headers
from advanced.app.redis_link import Patience, RedisAway, RedisLink
from advanced.app.resources import plain
from shared.web.errors import on_agent_error
from shared.web.middleware import ResponseHeaders

UserOf = Callable[[Scope], Awaitable[str | None]]

uncounted = Counter(
    "rate_limit_uncounted", "Requests that were let through because Redis did not count them"
)

TAKE = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local known = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = burst
if known[1] then
    tokens = math.min(burst, tonumber(known[1]) + math.max(0, now - tonumber(known[2])) * rate)
end
local allowed = tokens >= 1
if allowed then
    tokens = tokens - 1
    local counted, at = string.format('%.9f', tokens), string.format('%.6f', now)
    redis.call('HSET', KEYS[1], 'tokens', counted, 'at', at)
    redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * (burst - tokens) / rate))
end
local more_in = (math.floor(tokens) + 1 - tokens) / rate
return {allowed and 1 or 0, math.floor(tokens), math.ceil(more_in * 1000)}
"""


def connect(settings: Settings) -> Redis:
    return Redis(
        host=settings.REDIS_HOST or "127.0.0.1",
        port=settings.REDIS_PORT,
        db=settings.REDIS_DB,
        password=plain(settings.REDIS_PASSWORD),
        retry=None,  # type: ignore[arg-type]  # then there is none
        socket_timeout=None,
        protocol=2,
    )


class TokenBuckets:
    def __init__(
        self, redis: Redis, *, per_second: float, burst: int, timeout: float, pause: float
    ) -> None:
        patience = Patience(deadline=timeout, slow=timeout, first_probe=pause, last_probe=pause)
        self.link = RedisLink(redis, patience)
        self.per_second = per_second
        self.burst = burst

    async def take(self, caller: str) -> Verdict:
        allowed, remaining, milliseconds = await self.link.script(
            TAKE, [f"tokens:{digest(caller).hex()}"], [str(self.per_second), str(self.burst)]
        )
        return Verdict(
            allowed=allowed == 1,
            limit=self.burst,
            window=math.ceil(self.burst / self.per_second),
            remaining=remaining,
            reset=max(1, math.ceil(milliseconds / 1000)),
            scope="shared",
        )


class RateLimitMiddleware:
    def __init__(
        self, app: ASGIApp, *, buckets: TokenBuckets, user_of: UserOf, proxies: Sequence[Network]
    ) -> None:
        self.app = app
        self.refusing = ResponseHeaders(refused)
        self.buckets = buckets
        self.user_of = user_of
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"], scope.get("path", "").split("/"):
            case "http", ["", "health" | "metrics"] | ["", "health", "live" | "ready"]:
                await self.app(scope, receive, send)
            case "http", _:
                await self.limited(scope, receive, send)
            case "lifespan", _:
                try:
                    await self.app(scope, receive, send)
                finally:
                    await self.buckets.link.aclose()
            case _:
                await self.app(scope, receive, send)

    async def limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            verdict = await self.buckets.take(await self.caller(Request(scope)))
        except RedisAway:
            uncounted.inc()
            await self.app(scope, receive, send)
            return
        headers = limit_headers(verdict)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await (self.app if verdict.allowed else self.refusing)(scope, receive, telling)

    async def caller(self, request: Request) -> str:
        user = await self.user_of(request.scope)
        peer = request.client.host if request.client else None
        address = client_address(peer, request.headers.getlist("X-Forwarded-For"), self.proxies)
        return f"address {household(address)}" if user is None else f"user {user}"


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    response = await on_agent_error(Request(scope), RateLimited())
    await response(scope, receive, send)
