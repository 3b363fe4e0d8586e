"""The key that signs tokens: the setting, or in development one that is made and kept."""

import logging
import secrets
from pathlib import Path

from pydantic import SecretStr

from shared.errors import ConfigurationError

from .config import Settings
from .private_files import locked, write_privately
from .weak_keys import KEY_BYTES

logger = logging.getLogger(__name__)


def signing_key(settings: Settings) -> SecretStr:
    """SECRET_KEY; in development, without one, a random key that all workers and starts share."""
    if settings.SECRET_KEY is not None:
        return settings.SECRET_KEY
    path = settings.STATE_DIR / "secret_key"
    try:
        return SecretStr(kept_key(path))
    except OSError as exc:
        raise ConfigurationError(
            f"STATE_DIR: {path} cannot be kept ({exc.strerror}); choose another folder, "
            "or set SECRET_KEY."
        ) from exc


def kept_key(path: Path) -> str:
    """The key in the file; whoever comes first writes it, and says so."""
    with locked(path):
        if not path.exists():
            write_privately(path, secrets.token_urlsafe(64))
            logger.warning("No SECRET_KEY: made one for development, kept in %s.", path)
        path.chmod(0o600)
        key = path.read_text(encoding="ascii", errors="replace").strip()
    if len(key) < KEY_BYTES["HS512"]:
        raise ConfigurationError(f"{path} holds no key any more: delete it, and one is made.")
    return key
