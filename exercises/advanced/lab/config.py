"""Your part: the settings, read once, when the service starts. Served as advanced/app/config.py.

They come from the environment, then `.env` in the repository's root, then one file for each in
SECRETS_DIR, which is where containers mount their secrets.
"""

from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

import shared

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

    # TODO 1: where the settings are read besides the environment, that their names are written
    # exactly so, that an empty one counts as not set, that nobody changes them later, and that a
    # refusal does not repeat the value, which may be a secret.
    model_config = SettingsConfigDict(extra="ignore")

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

    # TODO 2: an algorithm that KEY_BYTES knows, and bounds, as its neighbours have them.
    ALGORITHM: str = "HS256"
    SECRET_KEY: SecretStr | None = Field(default=None, validate_default=True)
    ACCESS_TOKEN_EXPIRE_MINUTES: int = 30
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
    CACHE_TTL: int = 3600  # TODO 2, too

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
        raise NotImplementedError("TODO 4: refuse it where it would not be safe, and say why")

    @field_validator("CORS_ALLOW_CREDENTIALS")
    @classmethod
    def never_for_everyone(cls, value: bool, info: ValidationInfo) -> bool:
        raise NotImplementedError("TODO 4: refuse what lets every page act as its reader")

    @field_validator("SECRET_KEY")
    @classmethod
    def long_and_our_own(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        raise NotImplementedError(
            "TODO 3: in production there has to be one, and no example; anywhere it has to be long"
            " enough for the algorithm (weak_keys.py)"
        )

    @field_validator("METRICS_TOKEN")
    @classmethod
    def not_to_be_guessed(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        raise NotImplementedError("TODO 3: in production at least 16 characters, and no example")

    @field_validator("DEMO_USERS")
    @classmethod
    def nobody_in_production(cls, value: bool, info: ValidationInfo) -> bool:
        raise NotImplementedError("TODO 4: refuse them where they would not be safe")

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
        # TODO 2: after the others, the files in SECRETS_DIR, which is /run/secrets if not set; if
        # there is no such folder, no matter.
        return init_settings, env_settings, dotenv_settings, file_secret_settings


def read_settings() -> Settings:
    """Raises pydantic's ValidationError, or ConfigurationError for a file that is no text."""
    raise NotImplementedError("TODO 1: read them, and say where they come from")


@cache
def get_settings() -> Settings:
    """The hand-out's global `settings`, read when first asked for and the same ever after."""
    return read_settings()
