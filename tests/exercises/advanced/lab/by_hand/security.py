"""Tokens made and read by hand, passwords in asyncio's own threads."""

import asyncio
import base64
import hmac
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import bcrypt
from pydantic import SecretStr

from advanced.app.config import Settings
from advanced.app.errors import InvalidCredentials, InvalidToken, TooManyLogins
from advanced.app.login_failures import Allowance, Clock, LoginFailures, allowances
from advanced.app.passwords import Hash, digest, hash_password
from advanced.app.signing_key import signing_key
from advanced.app.users import DEMO_NAMES, Record, Users, demo_password, demo_users_announced

NOBODYS = b"$2b$12$" + b"." * 53
TEXTS, NUMBERS = ("sub", "jti", "iss", "aud"), ("iat", "exp")


@dataclass(frozen=True)
class Claims:
    subject: str
    jti: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True)
class User:
    name: str
    jti: str
    token_expires: datetime


class Tokens:
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
        self.lifetime_seconds = int(lifetime.total_seconds())
        self._key = key.get_secret_value().encode()
        self._hash = algorithm.replace("HS", "sha")
        self._head = as_part({"alg": algorithm, "typ": "JWT"})
        self._who = {"iss": issuer, "aud": audience}
        self._clock = clock

    def create_access_token(
        self, data: Mapping[str, Any], expires_delta: timedelta | None = None
    ) -> str:
        lasts = self.lifetime_seconds
        if expires_delta is not None:
            lasts = int(expires_delta.total_seconds())
        now = int(self._clock())
        times = {"iat": now, "exp": now + lasts, "jti": secrets.token_urlsafe(18)}
        return self._signed(f"{self._head}.{as_part({**data, **self._who, **times})}")

    def verify(self, token: str) -> Claims:
        body, dot, _ = token.rpartition(".")
        head, _, payload = body.partition(".")
        try:
            genuine = hmac.compare_digest(self._signed(body), token)
            same_kind = json.loads(as_bytes(head))["alg"] == json.loads(as_bytes(self._head))["alg"]
            claims = json.loads(as_bytes(payload)) if genuine and same_kind and dot else {}
        except (ValueError, KeyError, TypeError):
            raise InvalidToken from None
        whole = all(isinstance(claims.get(name), str) for name in TEXTS)
        timed = all(type(claims.get(name)) is int for name in NUMBERS)
        if not whole or not timed or not self._who.items() <= claims.items():
            raise InvalidToken
        if not max(claims["iat"], claims.get("nbf", 0)) <= self._clock() < claims["exp"]:
            raise InvalidToken
        return Claims(claims["sub"], claims["jti"], claims["iat"], claims["exp"])

    def _signed(self, body: str) -> str:
        return f"{body}.{as_text(hmac.digest(self._key, body.encode(), self._hash))}"


def as_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def as_bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def as_part(data: Mapping[str, Any]) -> str:
    return as_text(json.dumps(data, separators=(",", ":")).encode())


class Revocations(Protocol):
    async def revoke(self, jti: str, until: datetime) -> None: ...

    async def is_revoked(self, jti: str) -> bool: ...


class Authentication:
    def __init__(
        self, tokens: Tokens, users: Users, revocations: Revocations, failures: LoginFailures
    ) -> None:
        self.tokens = tokens
        self._users = users
        self._revocations = revocations
        self._failures = failures
        self._one_by_one: dict[str, asyncio.Lock] = {}
        self._few = asyncio.Semaphore(2)

    async def login(self, username: str, password: str, address: str) -> str:
        counted = allowances(username, address)
        lock = self._one_by_one.setdefault(counted[0].key, asyncio.Lock())
        async with lock, self._few:
            await self._checked(username, password, counted)
        return self.tokens.create_access_token({"sub": username})

    async def _checked(self, username: str, password: str, counted: tuple[Allowance, ...]) -> None:
        wait = await self._failures.spend(counted)
        if wait:
            raise TooManyLogins(retry_after=math.ceil(wait))
        record = self._users.find(username)
        right = await asyncio.to_thread(is_right, password, record.hash if record else None)
        if not right:
            raise InvalidCredentials
        await self._failures.succeeded(counted)

    async def authenticate(self, token: str) -> User:
        claims = self.tokens.verify(token)
        user = self._users.find(claims.subject)
        gone = user is None or user.since > claims.issued_at
        if gone or await self._revocations.is_revoked(claims.jti):
            raise InvalidToken
        return User(claims.subject, claims.jti, datetime.fromtimestamp(claims.expires_at, UTC))

    async def logout(self, user: User) -> None:
        await self._revocations.revoke(user.jti, user.token_expires)


def is_right(password: str, stored: Hash | None) -> bool:
    matches = bcrypt.checkpw(digest(password), stored() if stored else NOBODYS)
    return matches and stored is not None


@asynccontextmanager
async def open_authentication(
    settings: Settings,
    revocations: Revocations,
    failures: LoginFailures,
    clock: Clock = time.time,
) -> AsyncIterator[Authentication]:
    key = signing_key(settings)
    tokens = Tokens(
        key,
        algorithm=settings.ALGORITHM,
        issuer=settings.JWT_ISSUER,
        audience=settings.JWT_AUDIENCE,
        lifetime=timedelta(minutes=settings.ACCESS_TOKEN_EXPIRE_MINUTES),
        clock=clock,
    )
    if not settings.DEMO_USERS:
        yield Authentication(tokens, Users(settings.USERS_FILE), revocations, failures)
        return
    demo = {name: Record(hashed(demo_password(key, name))) for name in DEMO_NAMES}
    with demo_users_announced(settings, key):
        yield Authentication(tokens, Users(settings.USERS_FILE, demo), revocations, failures)


def hashed(password: str) -> Hash:
    stored = hash_password(password)
    return lambda: stored
