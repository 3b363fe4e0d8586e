"""The app's own limiter, in a middleware."""

import math
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.errors import RateLimited
from advanced.app.limits import (
    Network,
    RedisLimiter,
    Verdict,
    client_address,
    household,
    limit_headers,
)
from advanced.app.redis_link import Patience, RedisAway, RedisLink
from shared.web.errors import as_json
from shared.web.middleware import ResponseHeaders

UserOf = Callable[[Scope], Awaitable[str | None]]
"""Who asks, as far as a token proves it: see callers.py."""

uncounted = Counter(
    "rate_limit_uncounted", "Requests that were let through because Redis did not count them"
)

EXEMPT = {"/health", "/health/live", "/health/ready", "/metrics"}
"""Who asks there is our own monitoring, and what it would be refused is the news of an outage."""


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
    """The app's own limiter: so many in any window; in this process alone while Redis is away."""

    def __init__(
        self, redis: Redis, *, per_second: float, burst: int, timeout: float, pause: float
    ) -> None:
        self.redis = redis
        patience = Patience(deadline=timeout, slow=timeout, first_probe=pause, last_probe=pause)
        link = RedisLink(redis, patience)
        self.limiter = RedisLimiter(link, burst, math.ceil(burst / per_second))

    async def take(self, caller: str) -> Verdict:
        return await self.limiter.hit(caller)


class RateLimitMiddleware:
    """Asks the buckets before anybody else sees a request."""

    def __init__(
        self, app: ASGIApp, *, buckets: TokenBuckets, user_of: UserOf, proxies: Sequence[Network]
    ) -> None:
        self.app = app
        self.buckets = buckets
        self.user_of = user_of
        self.proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            async with self.buckets.redis:  # closed when the app has ended
                return await self.app(scope, receive, send)
        if scope["type"] != "http" or scope["path"] in EXEMPT:
            return await self.app(scope, receive, send)
        try:
            verdict = await self.buckets.take(await self.caller(scope))
        except RedisAway:
            uncounted.inc()
            return await self.app(scope, receive, send)
        if not verdict.allowed:
            return await _refusal(verdict)(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limit_headers(verdict))
            await send(message)

        return await self.app(scope, receive, with_headers)

    async def caller(self, scope: Scope) -> str:
        """Whose bucket pays: the verified user's, or else that of the address it comes from."""
        user = await self.user_of(scope)
        if user is not None:
            return f"user:{user}"
        peer = scope["client"][0] if scope["client"] else None  # a Unix socket has none
        forwarded = Headers(scope=scope).getlist("X-Forwarded-For")
        return f"address:{household(client_address(peer, forwarded, self.proxies))}"


def _refusal(verdict: Verdict) -> ASGIApp:
    """429, with the headers that every answer has: the edge that adds them is behind us."""
    error = RateLimited(
        f"{verdict.limit} requests at once are allowed, and then {verdict.limit} in"
        f" {verdict.window} s."
    )
    return ResponseHeaders(as_json(error.status, error.as_response(), limit_headers(verdict)))
