"""Authentication: from a name and a password to a token, and from a token to a user."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4
from weakref import WeakValueDictionary

import jwt
from jwt.types import Options
from pydantic import SecretStr

from shared.errors import ConfigurationError

from .config import Settings
from .errors import InvalidCredentials, InvalidToken, TooManyLogins
from .login_failures import Clock, LoginFailures, allowances
from .passwords import Passwords
from .signing_key import signing_key
from .users import DEMO_NAMES, Record, Users, demo_password, demo_users_announced

TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Without padding, which PyJWT would take: one token has one spelling."""

LAST_SECOND = 253_402_300_799
"""Of the year 9999: there is no date for a later one."""

REQUIRED = ["exp", "iat", "sub", "jti", "iss", "aud"]


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
        self._options: Options = {
            "require": REQUIRED,
            "strict_aud": True,
            "enforce_minimum_key_length": True,
            "verify_exp": False,  # checked here, by our clock
            "verify_iat": False,
            "verify_nbf": False,
        }
        self._jwt = jwt.PyJWT(self._options)
        self._refuse_unusable_key()

    def _refuse_unusable_key(self) -> None:
        try:
            self.create_access_token({"sub": ""})
        except jwt.InvalidKeyError as exc:
            raise ConfigurationError("SECRET_KEY is too short, or a key of another kind.") from exc

    def create_access_token(
        self, data: Mapping[str, Any], expires_delta: timedelta | None = None
    ) -> str:
        """A token with these claims, `sub` among them, valid from now on for `expires_delta`."""
        now = int(self._clock())
        lifetime = (
            self.lifetime_seconds if expires_delta is None else int(expires_delta.total_seconds())
        )
        registered = {
            "iss": self._issuer,
            "aud": self._audience,
            "iat": now,
            "exp": now + lifetime,
            "jti": uuid4().hex,
        }
        return self._jwt.encode(
            {**data, **registered}, self._key.get_secret_value(), self._algorithm
        )

    def verify(self, token: str) -> Claims:
        """Raises InvalidToken, whatever is wrong with it."""
        if not TOKEN.fullmatch(token):
            raise InvalidToken
        try:
            claims = self._jwt.decode(
                token,
                self._key.get_secret_value(),
                algorithms=[self._algorithm],
                issuer=self._issuer,
                audience=self._audience,
            )
        except jwt.InvalidTokenError as exc:
            raise InvalidToken from exc
        issued_at, expires_at = seconds(claims, "iat"), seconds(claims, "exp")
        not_before = seconds(claims, "nbf") if "nbf" in claims else issued_at
        if not max(issued_at, not_before) <= self._clock() < expires_at:
            raise InvalidToken
        return Claims(claims["sub"], claims["jti"], issued_at, expires_at)


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
        counted = allowances(username, address)
        refuse(await self._failures.wait(counted))
        with self._passwords.place():
            async with self._turn(counted[0].key), self._passwords.thread:
                refuse(await self._failures.spend(counted))
                if not await self._is_right(username, password):
                    raise InvalidCredentials
                await self._failures.succeeded(counted)
        return self.tokens.create_access_token({"sub": username})

    def _turn(self, key: str) -> asyncio.Lock:
        return self._turns.setdefault(key, asyncio.Lock())

    async def _is_right(self, username: str, password: str) -> bool:
        record = self._users.find(username)
        return await self._passwords.matches(password, record.hash if record else None)

    async def authenticate(self, token: str) -> User:
        """Raises InvalidToken."""
        claims = self.tokens.verify(token)
        record = self._users.find(claims.subject)
        if record is None or claims.issued_at < record.since:
            raise InvalidToken
        if await self._revocations.is_revoked(claims.jti):
            raise InvalidToken
        expires = datetime.fromtimestamp(claims.expires_at, UTC)
        return User(claims.subject, claims.jti, expires)

    async def logout(self, user: User) -> None:
        await self._revocations.revoke(user.jti, user.token_expires)


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
