"""The service's settings: read once, when it starts, from the environment and `.env`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^/*\s]+$")]


class Settings(BaseSettings):
    """Every variable has a line in the README. An empty one counts as not set."""

    model_config = SettingsConfigDict(
        env_file=Path(__file__).parents[2] / ".env",
        env_ignore_empty=True,
        case_sensitive=True,
        frozen=True,
        extra="ignore",
    )

    OPENAI_API_KEY: SecretStr | None = None
    OPENAI_BASE_URL: str | None = None
    OPENAI_MODEL: str = "gpt-4o-mini"
    CORS_ORIGINS: Annotated[tuple[Origin, ...], NoDecode] = ()
    REQUEST_TIMEOUT: float = Field(default=60, gt=0, le=3600)
    TURN_WAIT: float = Field(default=30, gt=0, le=3600)
    MAX_SESSIONS: int = Field(default=1000, ge=1, le=1_000_000)

    @field_validator("CORS_ORIGINS", mode="before")
    @classmethod
    def split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(origin.strip() for origin in value.split(",") if origin.strip())
