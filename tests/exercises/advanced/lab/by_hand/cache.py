"""Answers in Redis by the standard library alone: compressed, and checked field by field."""

import hashlib
import json
import zlib
from typing import Any

from advanced.app.redis_link import RedisAway, RedisLink

KINDS = {
    "response": str,
    "stopped": str | None,
    "flawed": bool,
    "tools": list,
    "iterations": int,
    "tokens_used": int | None,
}


class CacheService:
    def __init__(self, redis: RedisLink | None, *, ttl: int, enabled: bool = True) -> None:
        self.redis = redis if enabled else None
        self.ttl = ttl
        self.enabled = enabled

    async def get(self, prefix: str, /, *args: Any, **kwargs: Any) -> Any | None:
        return await self.find(cache_key(prefix, *args, **kwargs))

    async def set(
        self, prefix: str, value: Any, /, ttl: int | None = None, *args: Any, **kwargs: Any
    ) -> None:
        await self.keep(cache_key(prefix, *args, **kwargs), value, ttl)

    async def find(self, key: str) -> Any | None:
        if self.redis is None:
            return None
        try:
            raw = await self.redis.run(lambda client: client.get(key))
            return unwrap(key, raw).get("value")
        except RedisAway:
            return None

    async def keep(self, key: str, value: Any, ttl: int | None = None) -> None:
        if self.redis is None:
            return
        try:
            stored = wrap(key, value=value)
            await self.redis.run(lambda client: client.setex(key, ttl or self.ttl, stored))
        except RedisAway:
            return


def cache_key(prefix: str, /, *args: Any, **kwargs: Any) -> str:
    digest = hashlib.blake2b(digest_size=40)
    for part in (*args, *sorted(kwargs.items())):
        text = json.dumps(part, sort_keys=True).encode()
        digest.update(b"%d:%b," % (len(text), text))
    return f"cache:{prefix}:{digest.hexdigest()}"


def answer_key(user: str, agent: Any, query: str, iterations: int) -> str:
    return cache_key("answer", query=query, user=user, agent=agent, iterations=iterations)


def wrap(key: str, **content: Any) -> bytes:
    return zlib.compress(json.dumps([key, content]).encode(), level=1)


def unwrap(key: str, raw: Any) -> dict[str, Any]:
    try:
        whose, content = json.loads(zlib.decompress(raw or b""))
    except (zlib.error, TypeError, ValueError):
        return {}
    return content if whose == key and isinstance(content, dict) else {}


class Made(dict[str, Any]):
    def __init__(self, **fields: Any) -> None:
        super().__init__(fields)

    def model_dump(self) -> dict[str, Any]:
        return dict(self)


def is_answer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == KINDS.keys()
        and all(isinstance(value[name], kind) for name, kind in KINDS.items())
        and value["response"] != ""
    )


def may_be_repeated(made: dict[str, Any]) -> bool:
    return not (made["stopped"] or made["flawed"])
