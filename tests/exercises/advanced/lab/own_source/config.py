"""The settings; what is mounted as files is read by a source of its own.

They come from the environment, then `.env` in the repository's root, then one file for each in
SECRETS_DIR, which is where containers mount their secrets.
"""

import os
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

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


def refused(reason: str) -> PydanticCustomError:
    """A refusal that carries a sentence for people, and nothing of the value."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


class Settings(BaseSettings):
    """Every variable has a line in the README. An empty one counts as not set.

    Where a check looks at another field, that one is declared above it.
    """

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        case_sensitive=True,
        frozen=True,
        hide_input_in_errors=True,
        extra="ignore",
    )

    ENVIRONMENT: Literal["development", "production"] = "development"
    DEBUG: bool = False
    STATE_DIR: Path = ROOT / ".state"

    API_TITLE: str = "Agent service, advanced track"
    API_VERSION: str = "1.0.0"
    API_PREFIX: Prefix = "/api/v1"
    DOCS_ENABLED: bool = Field(default_factory=in_development)
    CORS_ALLOW_CREDENTIALS: bool = False
    CORS_ORIGINS: Origins = ()

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
    SECRET_KEY: SecretStr | None = Field(default=None, validate_default=True)
    ACCESS_TOKEN_EXPIRE_MINUTES: int = Field(default=30, ge=1, le=60 * 24 * 365)
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
    CACHE_TTL: int = Field(default=3600, ge=1, le=60 * 60 * 24 * 365)

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

    @field_validator("DEBUG")
    @classmethod
    def never_in_production(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("ENVIRONMENT") == "production":
            raise refused("debug mode shows internals and must be off in production")
        return value

    @field_validator("CORS_ORIGINS")
    @classmethod
    def not_everybody(cls, origins: Origins, info: ValidationInfo) -> Origins:
        credentials = info.data.get("CORS_ALLOW_CREDENTIALS")
        if not in_development(info.data) and credentials and "*" in origins:
            raise refused("* lets every page act as its reader: name the origins")
        return origins

    @field_validator("SECRET_KEY")
    @classmethod
    def long_and_our_own(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        production = info.data.get("ENVIRONMENT") == "production"
        if key is None:
            if production:
                raise refused("has to be set in production, make one with openssl rand -hex 64")
            return None
        plain = key.get_secret_value()
        needed = KEY_BYTES.get(info.data.get("ALGORITHM", ""), 0)
        if len(plain.encode("utf-8", "surrogateescape")) < needed:
            raise refused(f"has to have at least {needed} bytes for this algorithm")
        if production and is_example(plain):
            raise refused("looks like an example, make one with openssl rand -hex 64")
        return key

    @field_validator("METRICS_TOKEN")
    @classmethod
    def not_to_be_guessed(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if token is not None and info.data.get("ENVIRONMENT") == "production":
            plain = token.get_secret_value()
            if len(plain) < 16 or is_example(plain):
                raise refused("can be guessed: take at least 16 random characters")
        return token

    @field_validator("DEMO_USERS")
    @classmethod
    def nobody_in_production(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("ENVIRONMENT") == "production":
            raise refused("demo users are for development only")
        return value

    @property
    def log_level(self) -> str:
        return "DEBUG" if self.DEBUG else self.LOG_LEVEL

    @property
    def langsmith_key(self) -> str | None:
        """Without both the wish and a key, nothing is traced."""
        key = self.LANGCHAIN_API_KEY
        return key.get_secret_value() if self.LANGCHAIN_TRACING_V2 and key else None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        mounted = MountedSecrets(settings_cls)
        return init_settings, env_settings, dotenv_settings, mounted


class MountedSecrets(EnvSettingsSource):
    """One file a setting, as containers mount them."""

    def _load_env_vars(self) -> dict[str, str | None]:
        folder = Path(os.environ.get("SECRETS_DIR") or "/run/secrets")
        found: dict[str, str | None] = {}
        for name in self.settings_cls.model_fields:
            try:
                found[name] = (folder / name).read_text(encoding="utf-8").strip() or None
            except OSError:
                continue
            except UnicodeDecodeError:
                raise ConfigurationError(f"{name}: the file {folder / name} is no text.") from None
        return {name: text for name, text in found.items() if text is not None}


def read_settings() -> Settings:
    """Raises pydantic's ValidationError, or ConfigurationError for a file that is no text."""
    try:
        return Settings()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(".env is not UTF-8 text.") from exc


@cache
def get_settings() -> Settings:
    """The hand-out's global `settings`, read when first asked for and the same ever after."""
    return read_settings()
