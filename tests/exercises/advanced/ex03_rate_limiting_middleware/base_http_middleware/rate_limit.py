"""BaseHTTPMiddleware, which waits for the whole answer before it adds its headers."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.datastructures import Headers
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from advanced.app.config import Settings
from advanced.app.errors import RateLimited
from advanced.app.limits import Network, Verdict, client_address, household, limit_headers
from shared.web.errors import as_json

UserOf = Callable[[Scope], Awaitable[str | None]]
"""Who asks, as far as a token proves it: see callers.py."""

uncounted = Counter(
    "rate_limit_uncounted", "Requests that were let through because Redis did not count them"
)

EXEMPT = {"/health", "/health/live", "/health/ready", "/metrics"}
"""Who asks there is our own monitoring, and what it would be refused is the news of an outage."""

AT_ONCE = 16
"""Commands under way in one process. More callers wait here, and not for a place in the client's
pool, which refuses them: that would look as if Redis were away."""

SECOND = 1_000_000
"""In microseconds, in which Redis tells the time."""

TAKE = """
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local there = burst * interval - (full_at - now)
if there < interval then
    return {0, 0, interval - there}
end
full_at = full_at + interval
there = there - interval
redis.call('SET', KEYS[1], full_at, 'PX', math.ceil((full_at - now) / 1000))
return {1, math.floor(there / interval), interval - there % interval}
"""
"""The generic cell rate algorithm: all that is kept of a bucket is when it will be full again.

A token is worth `interval` microseconds. Answers whether there was one, how many are left, and in
how many microseconds there is one more. All are whole numbers: Redis would cut a fraction off.
"""


class RedisAway(Exception):
    """Redis could not be asked, or gave no answer: nobody knows what is in the bucket."""


def connect(settings: Settings) -> Redis:
    """A client for the Redis that the settings name. It connects when it is first used."""
    password = settings.REDIS_PASSWORD
    return Redis(
        host=settings.REDIS_HOST or "127.0.0.1",
        port=settings.REDIS_PORT,
        db=settings.REDIS_DB,
        password=password.get_secret_value() if password else None,
        # By default it tries ten times, five seconds each. The only deadline is that of `take`:
        # with a second one inside, Python 3.11 sometimes loses the first.
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,
    )


class TokenBuckets:
    """A bucket for each caller, in Redis: `burst` tokens fit in, and `per_second` come back.

    Nobody waits for Redis longer than `timeout` seconds, and once it has failed, nobody asks it
    for `pause` seconds.
    """

    def __init__(
        self, redis: Redis, *, per_second: float, burst: int, timeout: float, pause: float
    ) -> None:
        self.redis = redis
        self.per_second = per_second
        self.burst = burst
        self.timeout = timeout
        self.pause = pause
        self._script = redis.register_script(TAKE)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._ask_again = -math.inf

    async def take(self, caller: str) -> Verdict:
        """Take a token out of the caller's bucket, if there is one. Raises RedisAway."""
        async with self._slots:
            allowed, left, wait = await self._ask(caller)
        return Verdict(
            allowed=bool(allowed),
            limit=self.burst,
            window=math.ceil(self.burst / self.per_second),
            remaining=left,
            reset=math.ceil(wait / SECOND),
            scope="shared",
        )

    async def _ask(self, caller: str) -> tuple[int, int, int]:
        clock = asyncio.get_running_loop().time
        if clock() < self._ask_again:
            raise RedisAway
        interval = round(SECOND / self.per_second)
        try:
            async with asyncio.timeout(self.timeout):
                allowed, left, wait = await self._script(
                    [f"bucket:{caller}"], [interval, self.burst]
                )
        except (RedisError, OSError) as exc:  # TimeoutError is one of the latter
            self._ask_again = clock() + self.pause
            raise RedisAway from exc
        return allowed, left, wait


class RateLimitMiddleware(BaseHTTPMiddleware):
    """Asks the buckets before anybody else sees a request."""

    def __init__(
        self, app: ASGIApp, *, buckets: TokenBuckets, user_of: UserOf, proxies: Sequence[Network]
    ) -> None:
        super().__init__(app)
        self.buckets = buckets
        self.user_of = user_of
        self.proxies = proxies

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.url.path in EXEMPT:
            return await call_next(request)
        try:
            verdict = await self.buckets.take(await self.caller(request.scope))
        except RedisAway:
            uncounted.inc()
            return await call_next(request)
        headers = limit_headers(verdict)
        if not verdict.allowed:
            error = RateLimited()
            headers |= {"X-Request-ID": request.headers.get("X-Request-ID", "none")}
            headers |= {"X-Process-Time": "0", "X-Content-Type-Options": "nosniff"}
            headers |= {"Cache-Control": "no-store"}
            return as_json(error.status, error.as_response(), headers)
        response = await call_next(request)
        body = b"".join([piece async for piece in response.body_iterator])  # type: ignore[attr-defined]
        return Response(body, response.status_code, {**response.headers, **headers})

    async def caller(self, scope: Scope) -> str:
        """Whose bucket pays: the verified user's, or else that of the address it comes from."""
        user = await self.user_of(scope)
        if user is not None:
            return f"user:{user}"
        peer = scope["client"][0] if scope["client"] else None  # a Unix socket has none
        forwarded = Headers(scope=scope).getlist("X-Forwarded-For")
        return f"address:{household(client_address(peer, forwarded, self.proxies))}"
