"""Your part: who may ask how often, counted in Redis, in front of everything."""

from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.limits import Network, Verdict

UserOf = Callable[[Scope], Awaitable[str | None]]
"""Who asks, as far as a token proves it: see callers.py."""

uncounted = Counter(
    "rate_limit_uncounted", "Requests that were let through because Redis did not count them"
)

TAKE = """
"""
"""TODO 3: a Lua script that takes one token out of a bucket, for Redis to run as one step."""


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

    async def take(self, caller: str) -> Verdict:
        """Take a token out of the caller's bucket, if there is one. Raises RedisAway."""
        raise NotImplementedError("TODO 3: run TAKE in Redis, and make a Verdict of its answer")


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
        raise NotImplementedError("TODO 1: pass on what is not yours, and limit the rest")

    async def caller(self, scope: Scope) -> str:
        """Whose bucket pays: the verified user's, or else that of the address it comes from."""
        raise NotImplementedError("TODO 2: ask user_of; without a user, find the address")
