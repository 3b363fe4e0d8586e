"""Who may ask how often: a key that expires when the bucket is full again, and no other clock."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.errors import RateLimited
from advanced.app.limits import Network, Verdict, client_address, household
from shared.web.errors import as_json
from shared.web.middleware import ResponseHeaders

UserOf = Callable[[Scope], Awaitable[str | None]]
Header = tuple[bytes, bytes]

FREE = re.compile(r"/metrics|/health(/live|/ready)?")

uncounted = Counter(
    "rate_limit_uncounted", "Requests that were let through because Redis did not count them"
)

TAKE = """
local token, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local missing = math.max(0, redis.call('PTTL', KEYS[1]))
local verdict = 0
if missing + token <= size then
    verdict = 1
    missing = missing + token
    redis.call('SET', KEYS[1], '', 'PX', missing)
end
return {verdict, missing}
"""
"""All in milliseconds: what a token is worth, what a bucket holds, and what is missing in it."""


class RedisAway(Exception):
    pass


def connect(settings: Settings) -> Redis:
    password = settings.REDIS_PASSWORD
    pool = BlockingConnectionPool(
        max_connections=8,
        timeout=None,
        host=settings.REDIS_HOST or "127.0.0.1",
        port=settings.REDIS_PORT,
        db=settings.REDIS_DB,
        password=password.get_secret_value() if password else None,
        socket_timeout=None,
    )
    return Redis.from_pool(pool)


class TokenBuckets:
    def __init__(
        self, redis: Redis, *, per_second: float, burst: int, timeout: float, pause: float
    ) -> None:
        self.redis = redis
        self.per_second = per_second
        self.burst = burst
        self.timeout = timeout
        self.pause = pause
        self.away = False

    async def take(self, caller: str) -> Verdict:
        token = round(1000 / self.per_second)
        size = self.burst * token
        allowed, missing = await self._run(caller, token, size)
        there = size - missing
        return Verdict(
            allowed=bool(allowed),
            limit=self.burst,
            window=math.ceil(size / 1000),
            remaining=there // token,
            reset=math.ceil((token - there % token) / 1000),
            scope="shared",
        )

    async def _run(self, caller: str, token: int, size: int) -> list[int]:
        if self.away:
            raise RedisAway
        asking = self.redis.eval(TAKE, 1, f"missing {caller}", token, size)
        try:
            answer: list[int] = await asyncio.wait_for(asking, self.timeout)
        except (RedisError, OSError) as exc:
            self.away = True
            asyncio.get_running_loop().call_later(self.pause, self._back)
            raise RedisAway from exc
        return answer

    def _back(self) -> None:
        self.away = False


class RateLimitMiddleware:
    def __init__(
        self, app: ASGIApp, *, buckets: TokenBuckets, user_of: UserOf, proxies: Sequence[Network]
    ) -> None:
        self.app = app
        self.buckets = buckets
        self.user_of = user_of
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not FREE.fullmatch(scope["path"]):
            return await self.limited(scope, receive, send)
        return await self.app(scope, receive, send)

    async def limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            verdict = await self.buckets.take(await self.caller(scope))
        except RedisAway:
            uncounted.inc()
            return await self.app(scope, receive, send)
        fields = limit_fields(verdict)

        async def with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *fields]}
            await send(message)

        answer = self.app if verdict.allowed else ResponseHeaders(refuse)
        return await answer(scope, receive, with_fields)

    async def caller(self, scope: Scope) -> str:
        if user := await self.user_of(scope):
            return f"user {user}"
        written = [v.decode("latin-1") for n, v in scope["headers"] if n == b"x-forwarded-for"]
        peer = scope["client"][0] if scope["client"] else None
        return household(client_address(peer, written, self.proxies))


def limit_fields(verdict: Verdict) -> list[Header]:
    policy = f'"default";q={verdict.limit};w={verdict.window}'
    limit = f'"default";r={verdict.remaining};t={verdict.reset}'
    fields = [(b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode())]
    if not verdict.allowed:
        fields.append((b"retry-after", b"%d" % verdict.reset))
    return fields


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await as_json(429, RateLimited().as_response())(scope, receive, send)
