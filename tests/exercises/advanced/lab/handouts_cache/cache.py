"""Redis, as the hand-out has it: connected at the start, or never."""

import hashlib
import json
import logging
from typing import Any

import orjson
import redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advanced.app.config import get_settings
from advanced.app.redis_link import RedisLink

logger = logging.getLogger(__name__)


class CacheService:
    def __init__(self, redis_link: RedisLink | None, *, ttl: int, enabled: bool = True) -> None:
        self.redis = redis_link
        self.ttl = ttl
        self.enabled = enabled
        self.redis_client: redis.Redis | None = None
        settings = get_settings()
        if not enabled or not settings.REDIS_ENABLED or settings.REDIS_HOST is None:
            return
        password = settings.REDIS_PASSWORD
        client = redis.Redis(
            host=settings.REDIS_HOST,
            port=settings.REDIS_PORT,
            password=password.get_secret_value() if password else None,
        )
        try:
            client.ping()
            self.redis_client = client
        except redis.RedisError as exc:
            logger.warning("Redis connection failed: %s. Caching disabled.", type(exc).__name__)

    async def find(self, key: str) -> Any | None:
        if self.redis_client is None:
            return None
        try:
            value: Any = self.redis_client.get(key)
            return unwrap(key, value).get("value")
        except redis.RedisError:
            logger.exception("Cache get error")
            return None

    async def keep(self, key: str, value: Any, ttl: int | None = None) -> None:
        if self.redis_client is None:
            return
        try:
            self.redis_client.setex(key, ttl or self.ttl, wrap(key, value=value))
        except redis.RedisError:
            logger.exception("Cache set error")


def cache_key(prefix: str, /, *args: Any, **kwargs: Any) -> str:
    """`cache:{prefix}:{hash}`: equal for equal arguments, in whatever order they are named.

    Raises TypeError for what JSON cannot hold.
    """
    key_data = json.dumps({"args": args, "kwargs": kwargs}, sort_keys=True)
    return f"cache:{prefix}:{hashlib.md5(key_data.encode()).hexdigest()}"  # noqa: S324


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
