"""Who may log in: a file of hashes, and in development two demo users.

`make user NAME=alice` runs this module, which asks for a password and writes its hash.
"""

import argparse
import base64
import getpass
import hmac
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from shared.errors import ConfigurationError
from shared.web.lifecycle import sentence

from .config import Settings, read_settings
from .passwords import Hash, hash_password
from .private_files import locked, write_privately

USER_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1024
DEMO_NAMES = ("alice", "bob")

Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Record:
    """What is known about a user."""

    hash: Hash
    since: int = 0
    """Unix seconds: tokens from before belong to an earlier password, or to another person."""


class Users:
    """The users file, read again whenever it was replaced; `demo` users come after it."""

    def __init__(self, path: Path, demo: Mapping[str, Record] | None = None) -> None:
        self._path = path
        self._demo = demo or {}
        self._version: tuple[int, ...] | None = None
        self._records: dict[str, Record] = {}

    def find(self, name: str) -> Record | None:
        """Raises ConfigurationError when the file is there and cannot be read."""
        self._refresh()
        return self._records.get(name) or self._demo.get(name)

    def _refresh(self) -> None:
        version = self._stamp()
        if version == self._version:
            return
        entries = read_users(self._path)
        self._records = {name: as_record(entry) for name, entry in entries.items()}
        self._version = version

    def _stamp(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return ()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def as_record(entry: dict[str, Any]) -> Record:
    stored = entry["hash"].encode()
    return Record(hash=lambda: stored, since=entry["since"])


def read_users(path: Path) -> Entries:
    try:
        entries = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"USERS_FILE: {path} cannot be read as JSON.") from exc
    if not isinstance(entries, dict) or not all(map(is_entry, entries.values())):
        raise ConfigurationError(f"USERS_FILE: {path} holds no users as `make user` writes them.")
    return entries


def is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("since"), int)
        and re.fullmatch(r"\$2b\$\d\d\$[./A-Za-z0-9]{53}", str(entry.get("hash"))) is not None
    )


def set_password(path: Path, name: str, password: str, **hashing: int) -> None:
    """Make the user, or change the password and so end the validity of all earlier tokens."""
    if not USER_NAME.fullmatch(name):
        raise ConfigurationError("NAME must be 1 to 64 letters, digits, dots, @, _ or hyphens.")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ConfigurationError(
            f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters."
        )
    hashed = hash_password(password, **hashing).decode()
    with changing(path) as entries:
        entries[name] = {"hash": hashed, "since": int(time.time())}


def remove_user(path: Path, name: str) -> None:
    """Their tokens are refused from now on."""
    with changing(path) as entries:
        if entries.pop(name, None) is None:
            raise ConfigurationError("There is no such user.")


@contextmanager
def changing(path: Path) -> Iterator[Entries]:
    """The entries, to be changed in place and written when the block ends well."""
    with locked(path):
        entries = read_users(path)
        yield entries
        write_privately(path, json.dumps(entries, indent=2) + "\n")


def demo_password(key: SecretStr, name: str) -> str:
    """As random as the signing key, so the same for all workers and starts, and stored nowhere."""
    secret = hmac.digest(key.get_secret_value().encode(), f"demo user {name}".encode(), "sha256")
    return base64.b32encode(secret)[:20].decode().lower()


@contextmanager
def demo_users_announced(settings: Settings, key: SecretStr) -> Iterator[None]:
    """Print the demo users' passwords once for all workers: the one that gets the lock speaks.

    Printed and not logged: logs are kept, and read by others.
    """
    with ExitStack() as stack:
        try:
            lock = locked(settings.STATE_DIR / "demo_users", wait=False)
            first = stack.enter_context(lock)
        except OSError:  # no place for a lock: better said twice than never
            first = True
        for name in DEMO_NAMES if first else ():
            print(f"Demo user {name}, password {demo_password(key, name)}", flush=True)
        yield


def asked_password() -> str:
    """Typed twice at a terminal, and not shown; otherwise the first line of the input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise ConfigurationError("The two passwords differ; nothing was changed.")
    return password


def main() -> None:
    parser = argparse.ArgumentParser(prog="make user", description="Make or change a user.")
    parser.add_argument("name")
    parser.add_argument("--remove", action="store_true", help="the user may not log in any more")
    arguments = parser.parse_args()
    try:
        print(done(read_settings().USERS_FILE, arguments.name, remove=arguments.remove))
    except (ConfigurationError, ValidationError) as exc:
        sys.exit(sentence(exc))
    except OSError as exc:
        sys.exit(f"USERS_FILE: {exc.filename} cannot be written ({exc.strerror}).")


def done(path: Path, name: str, *, remove: bool) -> str:
    if remove:
        remove_user(path, name)
        return f"{name} is no longer in {path}."
    set_password(path, name, asked_password())
    return f"{name} is in {path}, and can log in."


if __name__ == "__main__":
    main()
