"""Your part: from a password to a token, from a token to a user. advanced/app/security.py."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from weakref import WeakValueDictionary

from pydantic import SecretStr

from advanced.app.config import Settings
from advanced.app.errors import InvalidToken, TooManyLogins
from advanced.app.login_failures import Clock, LoginFailures
from advanced.app.passwords import Passwords
from advanced.app.signing_key import signing_key
from advanced.app.users import DEMO_NAMES, Record, Users, demo_password, demo_users_announced

LAST_SECOND = 253_402_300_799
"""Of the year 9999: there is no date for a later one."""


@dataclass(frozen=True)
class Claims:
    """What a token says that was made with our key for our audience, and is valid now."""

    subject: str
    jti: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True)
class User:
    """Who is asking, and with which token."""

    name: str
    jti: str
    token_expires: datetime


class Tokens:
    """Makes and checks JSON Web Tokens (RFC 7519, with the advice of RFC 8725)."""

    def __init__(
        self,
        key: SecretStr,
        *,
        algorithm: str = "HS256",
        issuer: str,
        audience: str,
        lifetime: timedelta,
        clock: Clock = time.time,
    ) -> None:
        self._key = key
        self._algorithm = algorithm
        self._issuer = issuer
        self._audience = audience
        self.lifetime_seconds = int(lifetime.total_seconds())
        self._clock = clock

    def create_access_token(
        self, data: Mapping[str, Any], expires_delta: timedelta | None = None
    ) -> str:
        """A token with these claims, `sub` among them, valid from now on for `expires_delta`."""
        raise NotImplementedError(
            "TODO 8: sign them (PyJWT), with who made the token, for whom, when, until when, its id"
        )

    def verify(self, token: str) -> Claims:
        """Raises InvalidToken, whatever is wrong with it."""
        raise NotImplementedError(
            "TODO 9: believe a token only if all that create_access_token promised is in it, signed"
            " with our key in our way"
        )


def seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    if type(value) is not int or not 0 <= value <= LAST_SECOND:  # True would be one, too
        raise InvalidToken
    return value


class Revocations(Protocol):
    """Tokens that were logged out, known to all workers and kept at least until they expire."""

    async def revoke(self, jti: str, until: datetime) -> None: ...

    async def is_revoked(self, jti: str) -> bool: ...


class MemoryRevocations:
    """One worker's own, for tests."""

    def __init__(self) -> None:
        self._until: dict[str, datetime] = {}

    async def revoke(self, jti: str, until: datetime) -> None:
        self._until[jti] = until

    async def is_revoked(self, jti: str) -> bool:
        return jti in self._until


class Authentication:
    """Who is asking, and may they: from a password to a token, and from a token to a user."""

    def __init__(
        self,
        tokens: Tokens,
        users: Users,
        passwords: Passwords,
        revocations: Revocations,
        failures: LoginFailures,
    ) -> None:
        self.tokens = tokens
        self._users = users
        self._passwords = passwords
        self._revocations = revocations
        self._failures = failures
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def login(self, username: str, password: str, address: str) -> str:
        """A token. Raises InvalidCredentials, TooManyLogins, or Overloaded.

        An attempt is paid for before the password is looked at and given back if it is right, so
        no number of guesses at once gets beyond the limit. One user's logins from one address go
        one by one, so that right ones do not use up the allowance either.
        """
        raise NotImplementedError(
            "TODO 10: count the attempt (login_failures.py), look at the password (passwords.py),"
            " and hand out a token if it is right"
        )

    async def authenticate(self, token: str) -> User:
        """Raises InvalidToken."""
        raise NotImplementedError(
            "TODO 11: the token is ours; is its user still there, is it from after the password was"
            " set, and has nobody logged out with it?"
        )

    async def logout(self, user: User) -> None:
        raise NotImplementedError("TODO 11: have the token revoked, as long as it would be good")


def refuse(wait: float) -> None:
    if wait > 0:
        raise TooManyLogins(retry_after=math.ceil(wait))


@asynccontextmanager
async def open_authentication(
    settings: Settings,
    revocations: Revocations,
    failures: LoginFailures,
    clock: Clock = time.time,
) -> AsyncIterator[Authentication]:
    """Everything from `settings`; prints the demo users' passwords where there are any."""
    key = signing_key(settings)
    tokens = Tokens(
        key,
        algorithm=settings.ALGORITHM,
        issuer=settings.JWT_ISSUER,
        audience=settings.JWT_AUDIENCE,
        lifetime=timedelta(minutes=settings.ACCESS_TOKEN_EXPIRE_MINUTES),
        clock=clock,
    )
    with ExitStack() as stack:
        async with Passwords() as passwords:
            demo: dict[str, Record] = {}
            if settings.DEMO_USERS:
                stack.enter_context(demo_users_announced(settings, key))
                demo = {
                    name: Record(passwords.hashed_soon(demo_password(key, name)))
                    for name in DEMO_NAMES
                }
            users = Users(settings.USERS_FILE, demo)
            users.find("")  # an unreadable file stops the start
            yield Authentication(tokens, users, passwords, revocations, failures)
