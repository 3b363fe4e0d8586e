"""What the application opens when it starts, as its settings say; each closes with its block."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import SecretStr

from shared.llm import open_llm
from shared.ports import SessionStore

from .config import Settings
from .limits import MemoryLimiter, RateLimiter, RedisLimiter
from .redis_link import RedisLink, open_redis, patience_within
from .sessions import SqliteSessions

logger = logging.getLogger(__name__)


class Conversations(Protocol):
    """All users' sessions, and what was said in them; opened once in each worker."""

    @property
    def checkpoints(self) -> BaseCheckpointSaver[Any]: ...

    def of(self, owner: str) -> SessionStore:
        """One user's sessions; nobody else's exist there. Costs nothing: made for each request."""

    async def answers(self) -> bool:
        """For the health check: True, or an AgentError that says why not."""

    async def active(self) -> int:
        """How many sessions there are, of all users. Raises an AgentError."""


def open_sessions(config: Settings) -> AbstractAsyncContextManager[SqliteSessions]:
    return SqliteSessions(
        config.STATE_DIR / "sessions.db",
        ttl=timedelta(seconds=config.SESSION_TTL),
        limit=config.MAX_SESSIONS,
    )


def open_model(config: Settings) -> AbstractAsyncContextManager[ChatOpenAI]:
    return open_llm(
        model=config.OPENAI_MODEL,
        api_key=plain(config.OPENAI_API_KEY),
        base_url=config.OPENAI_BASE_URL,
        temperature=config.OPENAI_TEMPERATURE,
        max_tokens=config.OPENAI_MAX_TOKENS,
        max_calls=config.MAX_MODEL_CALLS,
    )


@asynccontextmanager
async def open_redis_link(config: Settings) -> AsyncIterator[RedisLink | None]:
    """None if the settings name no Redis: the service does without, and says so."""
    if not config.REDIS_ENABLED or config.REDIS_HOST is None:
        logger.warning("No Redis: nothing is cached, and each worker limits by itself.")
        yield None
        return
    async with open_redis(
        config.REDIS_HOST,
        config.REDIS_PORT,
        db=config.REDIS_DB,
        password=plain(config.REDIS_PASSWORD),
        patience=patience_within(config.REDIS_TIMEOUT),
    ) as link:
        yield link


def rate_limiter(config: Settings, redis: RedisLink | None) -> RateLimiter | None:
    if not config.RATE_LIMIT_ENABLED:
        return None
    allowance = (config.RATE_LIMIT_REQUESTS, config.RATE_LIMIT_WINDOW)
    return RedisLimiter(redis, *allowance) if redis else MemoryLimiter(*allowance)


def plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
