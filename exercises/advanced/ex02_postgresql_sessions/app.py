"""The advanced service with your sessions in PostgreSQL. Given; it is not handed in.

`make serve EX=advanced/ex02` serves it, with DATABASE_URL in its environment.
"""

import logging
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError

from advanced.app.config import Settings
from advanced.app.main import create_app
from shared.web.lifecycle import sentence

from .postgres_sessions import PostgresSessions


class PostgresSettings(Settings):
    """What one replica is told. Seconds may be short here, so that one can wait for them."""

    DATABASE_URL: SecretStr
    DATABASE_POOL_SIZE: int = Field(default=10, ge=2, le=100)
    DATABASE_PATIENCE: float = Field(default=3.0, gt=0)
    TURN_LEASE: float = Field(default=8.0, gt=0, le=8.0)
    SESSION_TTL: int = Field(default=7 * 86_400, ge=1)
    SWEEP_EVERY: float = Field(default=60.0, gt=0)

    USERS_FILE: Path = Path(__file__).with_name("users.json")
    STATE_DIR: Path = Field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="replica-")))
    """Of each replica its own: they have nothing in common but the database and the users."""


def open_conversations(settings: PostgresSettings) -> PostgresSessions:
    return PostgresSessions(
        settings.DATABASE_URL.get_secret_value(),
        ttl=timedelta(seconds=settings.SESSION_TTL),
        limit=settings.MAX_SESSIONS,
        lease=settings.TURN_LEASE,
        sweep_every=settings.SWEEP_EVERY,
        pool_size=settings.DATABASE_POOL_SIZE,
        patience=settings.DATABASE_PATIENCE,
    )


try:
    settings = PostgresSettings()
except ValidationError as exc:
    sys.exit(sentence(exc))
app = create_app(settings, open_conversations=lambda _: open_conversations(settings))
logging.basicConfig(level="WARNING", force=True)  # tracebacks in plain text, while you build
