"""Redis, by a client of its own, with its own patience: five seconds, and ten times."""

import hashlib
from contextlib import suppress
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from advanced.app.config import get_settings
from advanced.app.redis_link import RedisLink


class CacheService:
    def __init__(self, link: RedisLink | None, *, ttl: int, enabled: bool = True) -> None:
        self.redis = link
        self.ttl = ttl
        self.enabled = enabled
        settings = get_settings()
        password = settings.REDIS_PASSWORD
        self._client = Redis(
            host=settings.REDIS_HOST or "127.0.0.1",
            port=settings.REDIS_PORT,
            password=password.get_secret_value() if password else None,
        )

    async def find(self, key: str) -> Any | None:
        if self.redis is None or not self.enabled:
            return None
        try:
            return unwrap(key, await self._client.get(key)).get("value")
        except RedisError:
            return None

    async def keep(self, key: str, value: Any, ttl: int | None = None) -> None:
        if self.redis is None or not self.enabled:
            return
        with suppress(RedisError):
            await self._client.setex(key, ttl or self.ttl, wrap(key, value=value))


def cache_key(prefix: str, /, *args: Any, **kwargs: Any) -> str:
    """`cache:{prefix}:{hash}`: equal for equal arguments, in whatever order they are named.

    Raises TypeError for what JSON cannot hold.
    """
    canonical = orjson.dumps([args, kwargs], option=orjson.OPT_SORT_KEYS)
    return f"cache:{prefix}:{hashlib.sha256(canonical).hexdigest()}"


def answer_key(user: str, agent: Any, query: str, iterations: int) -> str:
    """Of a first question's answer. `agent` is all that shapes it on our side: model, prompts."""
    return cache_key("answer", user, agent, query, iterations)


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


class Made(BaseModel):
    """What a question without a history comes to, as it is kept."""

    model_config = ConfigDict(strict=True)

    response: str = Field(min_length=1)
    stopped: str | None
    """Why the answer is not whole, if it is not."""
    flawed: bool
    """Whether a tool failed on the way."""
    tools: list[dict[str, Any]]
    iterations: int
    tokens_used: int | None


def is_answer(value: Any) -> bool:
    """Whether what came out of Redis is an answer: anybody may have written to it."""
    try:
        Made.model_validate(value)
    except ValidationError:
        return False
    return True


def may_be_repeated(made: dict[str, Any]) -> bool:
    """Whether an answer is good for the next one who asks: whole, and no tool failed on its way."""
    return made["stopped"] is None and not made["flawed"]
