"""Settings, checked once they are all there."""

import os
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

import shared
from advanced.app.weak_keys import KEY_BYTES, is_example
from shared.errors import ConfigurationError

ROOT = Path(shared.__file__).parents[1]


def split_at_commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^/*\s]+)$")]
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split_at_commas)]
Network = IPv4Network | IPv6Network
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split_at_commas)]
Prefix = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)*$")]
Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]


def in_development(validated: dict[str, Any]) -> bool:
    return validated.get("ENVIRONMENT") == "development"


class Settings(BaseSettings):
    """Every variable has a line in the README. An empty one counts as not set.

    Where a check looks at another field, that one is declared above it.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env",
        env_ignore_empty=True,
        case_sensitive=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    ENVIRONMENT: Literal["development", "production"] = "development"
    DEBUG: bool = False
    STATE_DIR: Path = ROOT / ".state"

    API_TITLE: str = "Agent service, advanced track"
    API_VERSION: str = "1.0.0"
    API_PREFIX: Prefix = "/api/v1"
    DOCS_ENABLED: bool = Field(default_factory=in_development)
    CORS_ORIGINS: Origins = ()
    CORS_ALLOW_CREDENTIALS: bool = False

    HOST: str = "127.0.0.1"
    PORT: int = Field(default=8000, ge=0, le=65535)
    WORKERS: int = Field(default=1, ge=1, le=64)
    TRUSTED_PROXIES: Networks = ()

    OPENAI_API_KEY: SecretStr | None = None
    OPENAI_BASE_URL: str | None = None
    OPENAI_MODEL: str = "gpt-4o-mini"
    OPENAI_TEMPERATURE: float = Field(default=0, ge=0, le=2)
    OPENAI_MAX_TOKENS: int = Field(default=4096, ge=1, le=1_000_000)
    REQUEST_TIMEOUT: float = Field(default=60, gt=0, le=3600)
    TURN_WAIT: float = Field(default=30, gt=0, le=3600)
    MAX_MODEL_CALLS: int = Field(default=128, ge=1, le=10_000)

    SESSION_TTL: int = Field(default=7 * 86_400, ge=60, le=10 * 365 * 86_400)
    MAX_SESSIONS: int = Field(default=1000, ge=1, le=1_000_000)

    REDIS_HOST: str | None = None
    REDIS_PORT: int = Field(default=6379, ge=1, le=65535)
    REDIS_DB: int = Field(default=0, ge=0, le=1_000_000)
    REDIS_PASSWORD: SecretStr | None = None
    REDIS_ENABLED: bool = True
    REDIS_TIMEOUT: float = Field(default=0.15, gt=0, le=60)

    ALGORITHM: Literal["HS256", "HS384", "HS512"] = "HS256"
    SECRET_KEY: SecretStr | None = None
    ACCESS_TOKEN_EXPIRE_MINUTES: int = Field(default=30, ge=1, le=30 * 24 * 60)
    JWT_ISSUER: str = Field(default="deploying-agents", min_length=1)
    JWT_AUDIENCE: str = Field(default="deploying-agents-api", min_length=1)
    USERS_FILE: Path = Field(
        default_factory=lambda validated: validated["STATE_DIR"] / "users.json"
    )
    DEMO_USERS: bool = Field(default_factory=in_development)

    RATE_LIMIT_ENABLED: bool = True
    RATE_LIMIT_REQUESTS: int = Field(default=100, ge=1, le=1_000_000)
    RATE_LIMIT_WINDOW: int = Field(default=60, ge=1, le=86_400)

    CACHE_ENABLED: bool = True
    CACHE_TTL: int = Field(default=3600, ge=1, le=30 * 86_400)

    ENABLE_METRICS: bool = True
    METRICS_TOKEN: SecretStr | None = None
    ENABLE_TRACING: bool = False
    OTEL_EXPORTER_OTLP_ENDPOINT: str | None = Field(
        default=None, pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"
    )
    OTEL_SERVICE_NAME: str = Field(default="deploying-agents", min_length=1)
    LOG_LEVEL: Level = "INFO"

    LANGCHAIN_TRACING_V2: bool = False
    LANGCHAIN_API_KEY: SecretStr | None = None
    LANGCHAIN_PROJECT: str = Field(default="deploying-agents", min_length=1)

    @model_validator(mode="after")
    def safe_where_it_matters(self) -> Self:
        wrong = [sentence for holds, sentence in self._promises() if not holds]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _promises(self) -> Iterator[tuple[bool, str]]:
        key = self.SECRET_KEY.get_secret_value() if self.SECRET_KEY else ""
        least = KEY_BYTES[self.ALGORITHM]
        yield not key or len(key.encode()) >= least, f"SECRET_KEY needs {least} bytes"
        if self.ENVIRONMENT == "development":
            return
        everyone = "*" in self.CORS_ORIGINS and self.CORS_ALLOW_CREDENTIALS
        token = self.METRICS_TOKEN.get_secret_value() if self.METRICS_TOKEN else None
        yield bool(key) and not is_example(key), "SECRET_KEY has to be one of your own"
        yield not self.DEBUG, "DEBUG has to be off"
        yield not self.DEMO_USERS, "DEMO_USERS have to be off"
        yield not everyone, "CORS_ALLOW_CREDENTIALS is not for every origin"
        if token is not None:
            yield len(token) > 15 and not is_example(token), "METRICS_TOKEN can be guessed"

    @property
    def log_level(self) -> str:
        return "DEBUG" if self.DEBUG else self.LOG_LEVEL

    @property
    def langsmith_key(self) -> str | None:
        """Without both the wish and a key, nothing is traced."""
        key = self.LANGCHAIN_API_KEY
        return key.get_secret_value() if self.LANGCHAIN_TRACING_V2 and key else None


def read_settings() -> Settings:
    """Raises pydantic's ValidationError, or ConfigurationError for a file that is no text."""
    try:
        folder = Path(os.environ.get("SECRETS_DIR") or "/run/secrets")
        return Settings(_secrets_dir=folder) if folder.is_dir() else Settings()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"{ROOT / '.env'} is not UTF-8: save it as UTF-8 in your editor, and start again."
        ) from exc
    except SettingsError as exc:  # it names the file, and quotes nothing of it
        raise ConfigurationError(f"SECRETS_DIR: no UTF-8 text could be read: {exc}.") from exc


@cache
def get_settings() -> Settings:
    """The hand-out's global `settings`, read when first asked for and the same ever after."""
    return read_settings()
