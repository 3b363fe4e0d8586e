"""Answers in Redis, in a transaction, under a SHA-3 digest that is written in base64."""

import base64
import hashlib
from contextlib import suppress
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis

from advanced.app.redis_link import RedisAway, RedisLink


class CacheService:
    """Values that may be had again. `redis` None: there is none. `ttl` in seconds.

    Not `enabled`: it keeps nothing and finds nothing.
    """

    def __init__(self, redis: RedisLink | None, *, ttl: int, enabled: bool = True) -> None:
        self.redis = redis
        self.ttl = ttl
        self.enabled = enabled

    def _generate_key(self, prefix: str, /, *args: Any, **kwargs: Any) -> str:
        return cache_key(prefix, *args, **kwargs)

    async def get(self, prefix: str, /, *args: Any, **kwargs: Any) -> Any | None:
        """What was set under the same arguments, or None."""
        return await self.find(self._generate_key(prefix, *args, **kwargs))

    async def set(
        self, prefix: str, value: Any, /, ttl: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Keep a value that JSON can hold for `ttl` seconds, by default CACHE_TTL."""
        await self.keep(self._generate_key(prefix, *args, **kwargs), value, ttl)

    async def find(self, key: str) -> Any | None:
        """What was kept under this key; None if that is nothing, or nothing of ours."""
        if self.redis is None or not self.enabled:
            return None
        try:
            raw = await self.redis.run(lambda client: client.get(key))
        except RedisAway:
            return None
        return unwrap(key, raw).get("value")

    async def keep(self, key: str, value: Any, ttl: int | None = None) -> None:
        """Keep it for `ttl` seconds, by default CACHE_TTL; for less than one, not at all."""
        ttl = self.ttl if ttl is None else ttl
        if self.redis is None or not self.enabled or ttl < 1:
            return
        content = wrap(key, value=value)
        with suppress(RedisAway):
            await self.redis.run(lambda client: store(client, key, content, ttl))


def cache_key(prefix: str, /, *args: Any, **kwargs: Any) -> str:
    """`cache:{prefix}:{hash}`: equal for equal arguments, in whatever order they are named.

    Raises TypeError for what JSON cannot hold.
    """
    text = orjson.dumps([args, kwargs], option=orjson.OPT_SORT_KEYS)
    digest = base64.urlsafe_b64encode(hashlib.sha3_256(text).digest()).decode().rstrip("=")
    return f"cache:{prefix}:{digest}"


async def store(client: Redis, key: str, content: bytes, ttl: int) -> None:
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.execute_command("SET", key, content)
        await pipeline.execute_command("EXPIRE", key, ttl)
        await pipeline.execute()


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
