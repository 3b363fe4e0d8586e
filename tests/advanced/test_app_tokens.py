"""Tokens over HTTP, with two workers: every forgery is one and the same 401, on every route."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
import pytest

from advanced.app.config import Settings
from advanced.app.users import remove_user, set_password
from shared.models import ErrorResponse
from shared.offline_model import OfflineModel
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import LOGOUT, PASSWORDS, SECRET_KEY, Advanced
from tests.talking import PLAIN, STREAM, ask

ISSUER = Settings.model_fields["JWT_ISSUER"].default
AUDIENCE = Settings.model_fields["JWT_AUDIENCE"].default

ROUTES = [
    ("POST", PLAIN),
    ("POST", STREAM),
    ("GET", "/api/v1/session/x"),
    ("DELETE", "/api/v1/session/x"),
    ("GET", "/api/v1/sessions"),
    ("POST", LOGOUT),
]
UNREADABLE = {
    "nothing": b"",
    "broken": b'{"query": "hel',
    "wrong": b'{"question": 5}',
    "64 KiB and more": b'{"query": "' + b"x" * 70_000 + b'"}',
    "good": b'{"query": "hello"}',
}


def encoded(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: Mapping[str, Any], claims: Any, key: str = SECRET_KEY, name: str = "") -> str:
    """What a library would refuse to sign."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    hashed = getattr(hashlib, name or "sha256")
    return f"{signed}.{encoded(hmac.new(key.encode(), signed.encode(), hashed).digest())}"


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, unless changed; None leaves one out."""
    now = int(time.time())
    good = {
        "sub": "carol", "iss": ISSUER, "aud": AUDIENCE, "jti": "made-by-hand",
        "iat": now, "exp": now + 600,
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(**changes: Any) -> str:
    return by_hand({"alg": "HS256", "typ": "JWT"}, claims(**changes))


def forged() -> dict[str, str]:
    """Each usual forgery of a token that is otherwise good."""
    now = int(time.time())
    good = signed()
    head, body, signature = good.split(".")
    other_claims = encoded(claims(sub="dave"))
    last = signature[:-1] + chr(ord(signature[-1]) ^ 1)
    return {
        **{
            f"alg {spelling!r}{' signed' if tail else ''}": (
                f"{encoded({'alg': spelling, 'typ': 'JWT'})}.{body}.{tail}"
            )
            for spelling in ("none", "None", "NONE", "nOnE", "", None, "HS257", ["HS256"])
            for tail in ("", signature)
        },
        "no alg": f"{encoded({'typ': 'JWT'})}.{body}.{signature}",
        "HS384": by_hand({"alg": "HS384"}, claims(), name="sha384"),
        "HS512": by_hand({"alg": "HS512"}, claims(), name="sha512"),
        "RS256": by_hand({"alg": "RS256"}, claims()),
        "HS256 of HS512": by_hand({"alg": "HS256"}, claims(), name="sha512"),
        "another key": by_hand({"alg": "HS256"}, claims(), key="x" * 64),
        "an empty key": by_hand({"alg": "HS256"}, claims(), key=""),
        "a key in the header": by_hand(
            {"alg": "HS256", "jwk": {"kty": "oct", "k": encoded(b"x" * 64)}, "kid": "../../etc"},
            claims(),
            key="x" * 64,
        ),
        "critical": by_hand({"alg": "HS256", "crit": ["exp"]}, claims()),
        "critical unknown": by_hand({"alg": "HS256", "crit": ["b64"], "b64": False}, claims()),
        "expired": signed(iat=now - 700, exp=now - 1),
        "just expired": signed(iat=now - 700, exp=now),
        "not yet": signed(nbf=now + 60),
        "from the future": signed(iat=now + 60),
        "another issuer": signed(iss="someone"),
        "a list of issuers": signed(iss=[ISSUER]),
        "another audience": signed(aud="someone"),
        "a list of audiences": signed(aud=[AUDIENCE]),
        "more audiences": signed(aud=[AUDIENCE, "someone"]),
        **{f"no {name}": signed(**{name: None}) for name in claims()},
        **{f"{name} a list": signed(**{name: [claims()[name]]}) for name in claims()},
        **{f"{name} an object": signed(**{name: {}}) for name in claims()},
        **{f"{name} true": signed(**{name: True}) for name in claims()},
        **{f"{name} a number": signed(**{name: 7}) for name in ("sub", "iss", "aud", "jti")},
        **{f"{name} a text": signed(**{name: str(now + 9)}) for name in ("exp", "iat", "nbf")},
        **{f"{name} a fraction": signed(**{name: now + 0.5}) for name in ("exp", "iat", "nbf")},
        **{f"{name} huge": signed(**{name: 10**400}) for name in ("exp", "iat", "nbf")},
        "exp after all dates": signed(exp=10**12),
        "iat before all dates": signed(iat=-(10**12)),
        **{f"{name} not finite": signed(**{name: float("inf")}) for name in ("exp", "iat", "nbf")},
        "exp NaN": signed(exp=float("nan")),
        "a stranger": signed(sub="nobody"),
        "no name": signed(sub=""),
        "a name with a NUL": signed(sub="carol\0"),
        "a name with a surrogate": signed(sub="\ud800"),
        "another case": signed(sub="Carol"),
        "claims of another": f"{head}.{other_claims}.{signature}",
        "signature changed": f"{head}.{body}.{last}",
        "signature of nothing": f"{head}.{body}.",
        "signature left out": f"{head}.{body}",
        "signature twice": f"{good}.{signature}",
        "padded": f"{good}=",
        "padded twice": f"{good}==",
        "padded inside": f"{head}=.{body}.{signature}",
        "plain base64": f"{head}.{body}.{signature[:-2]}+/",
        "cut": good[:-1],
        "longer": f"{good}A",
        "in quotes": f'"{good}"',
        "a newline": f"{good[:50]}\t{good[50:]}",
        "two, with a comma": f"{good},{good}",
        "the key": SECRET_KEY,
        "claims a list": by_hand({"alg": "HS256"}, [claims()]),
        "claims no JSON": by_hand({"alg": "HS256"}, b"{carol}"),
        "claims deep": by_hand({"alg": "HS256"}, b"[" * 9000 + b"]" * 9000),
        "header no JSON": f"{encoded(b'{')}.{body}.{signature}",
        "header a list": f"{encoded([])}.{body}.{signature}",
        "header deep": f"{encoded(b'[' * 9000)}.{body}.{signature}",
        "zipped": by_hand({"alg": "HS256", "zip": "DEF"}, b"\x78\x9c\x03\x00"),
        "long": "A" * 20_000,
    }


def is_refused(response: httpx.Response, code: str = "invalid_token") -> bool:
    challenge = 'Bearer error="invalid_token"' if code == "invalid_token" else "Bearer"
    assert response.status_code == 401, response.text
    assert response.headers["WWW-Authenticate"] == challenge
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.json()) == {"error", "detail", "code"}
    assert ErrorResponse(**response.json()).code == code
    return True


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.time()))


async def test_what_is_forged_below_is_good_but_for_that(nobody: httpx.AsyncClient) -> None:
    """A token made by hand with the right key and claims is believed, extra claims and all."""
    for token in (signed(), signed(nbf=int(time.time())), signed(role="x", scope=["y"])):
        assert (await nobody.get("/api/v1/sessions", headers=bearer(token))).status_code == 200


async def test_every_forgery_is_refused_in_the_same_words(
    nobody: httpx.AsyncClient, model: OfflineModel
) -> None:
    """One 401 for all of them; the model is never asked."""
    said = set()
    for kind, token in forged().items():
        response = await nobody.post(PLAIN, json={"query": "hello"}, headers=bearer(token))
        assert response.status_code == 401, f"{kind}: {response.status_code} {response.text}"
        assert is_refused(response), kind
        said.add(response.content)
    assert len(said) == 1
    assert model.call_count == 0


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_who_is_asking_comes_first(
    nobody: httpx.AsyncClient, model: OfflineModel, method: str, path: str
) -> None:
    """On every route: a stranger is told so before a body, a path or a parameter is looked at."""
    for content in UNREADABLE.values():
        more: dict[str, Any] = {"content": content, "headers": {"Content-Type": "application/json"}}
        assert is_refused(await nobody.request(method, path, **more), "not_authenticated")
        more["headers"] |= bearer(signed(aud="someone"))
        assert is_refused(await nobody.request(method, path, **more))
    for query in ("?limit=0", "?include=everything", "?cursor=x"):
        assert is_refused(await nobody.request(method, path + query), "not_authenticated")
    assert model.call_count == 0


def test_the_routes_above_are_all(shared_service: Advanced) -> None:
    """Whatever is under the API's prefix, but the login, is in the list."""
    with shared_service.waiting_client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    found = {
        (method.upper(), path.replace("{session_id}", "x"))
        for path, operations in paths.items()
        if path.startswith("/api/")
        for method in operations
    }
    assert found - {("POST", "/api/v1/auth/login")} == set(ROUTES)


@pytest.mark.parametrize(
    "sent",
    [
        {"params": {"access_token": "T", "token": "T", "Authorization": "Bearer T"}},
        {"headers": {"Cookie": "access_token=T; Authorization=Bearer T"}},
        {"json": {"query": "hello", "access_token": "T"}},
        {"data": {"access_token": "T"}},
        {"headers": {"X-Access-Token": "T", "Proxy-Authorization": "Bearer T"}},
        {"headers": {"Authorization": "Basic T"}},
        {"headers": {"Authorization": "T"}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": "BearerT"}},
        {"headers": [("Authorization", "Bearer T"), ("Authorization", "Bearer T")]},
        {"headers": [("Authorization", "Bearer T"), ("Authorization", "Bearer x")]},
        {"headers": [("Authorization", "Bearer x"), ("authorization", "Bearer T")]},
        {"headers": [("Authorization", "Bearer T"), ("Authorization", "")]},
    ],
    ids=lambda sent: json.dumps(sent)[:60],
)
@pytest.mark.parametrize("path", [PLAIN, STREAM])
async def test_a_token_comes_in_one_header(
    nobody: httpx.AsyncClient, model: OfflineModel, path: str, sent: Mapping[str, Any]
) -> None:
    """Not in the address, a cookie, the body, another scheme, nor twice."""
    token = signed()
    arguments = json.loads(json.dumps(dict(sent)).replace("Bearer T", "Bearer " + token))
    if isinstance(arguments.get("headers"), list):
        arguments["headers"] = [tuple(pair) for pair in arguments["headers"]]
    else:
        arguments = json.loads(json.dumps(arguments).replace('"T"', json.dumps(token)))
    assert is_refused(await nobody.post(path, **arguments), "not_authenticated")
    assert model.call_count == 0


async def test_the_scheme_has_no_case(nobody: httpx.AsyncClient) -> None:
    """`bearer` and `BEARER` are Bearer (RFC 9110, section 11.1)."""
    for scheme in ("bearer", "BEARER", "bEaReR"):
        headers = {"Authorization": f"{scheme} {signed()}"}
        assert (await nobody.get("/api/v1/sessions", headers=headers)).status_code == 200


async def test_a_logout_is_seen_by_all_workers(shared_service: Advanced) -> None:
    """From the next request on, whichever worker was told; other tokens of the user live on."""
    for first in (0, 1):
        token, other = shared_service.log_in("carol"), shared_service.log_in("carol")
        clients = await shared_service.client_of_each_worker(token)
        for client in clients:
            assert (await client.get("/api/v1/sessions")).status_code == 200
        out = await clients[first].post(LOGOUT)
        assert (out.status_code, out.json()) == (200, {"message": "Logged out"})
        for client in clients:
            assert is_refused(await client.get("/api/v1/sessions"))
            assert is_refused(await client.post(LOGOUT))
            more = {"Authorization": f"Bearer {other}"}
            assert (await client.get("/api/v1/sessions", headers=more)).status_code == 200
            await client.aclose()


async def test_what_happens_to_a_user_and_to_redis(serve: Serve) -> None:
    """A changed password and a deleted user end tokens in both workers, with Redis dead as well.

    A token that was logged out stays so when Redis dies.
    """
    service = serve(WORKERS="2")
    tokens = {name: service.log_in(name) for name in PASSWORDS}
    gone = service.log_in("carol")
    clients = await service.client_of_each_worker(tokens["carol"])

    async def statuses(token: str) -> list[int]:
        headers = {"Authorization": f"Bearer {token}"}
        return [(await c.get("/api/v1/sessions", headers=headers)).status_code for c in clients]

    async with service.client(gone) as client:
        await client.post(LOGOUT)
    assert await statuses(gone) == [401, 401]
    assert service.redis
    service.redis.kill()
    assert await statuses(gone) == [401, 401]
    assert await statuses(tokens["carol"]) == [200, 200]

    issued = jwt.decode(tokens["carol"], options={"verify_signature": False})["iat"]
    await until(issued + 1)  # tokens know whole seconds
    set_password(service.users_file, "carol", PASSWORDS["carol"], cost=4)
    assert await statuses(tokens["carol"]) == [401, 401]
    assert await statuses(tokens["dave"]) == [200, 200]
    assert await statuses(service.log_in("carol")) == [200, 200]
    remove_user(service.users_file, "dave")
    assert await statuses(tokens["dave"]) == [401, 401]
    for client in clients:
        await client.aclose()


async def test_a_token_ends_in_mid_conversation(
    carol: httpx.AsyncClient, nobody: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A token that expires between two turns does not carry the second."""
    now = int(time.time())
    short = bearer(signed(exp=now + 2))
    first = await nobody.post(PLAIN, json={"query": "one"}, headers=short)
    assert first.status_code == 200
    await until(now + 2)
    body = {"query": "two", "session_id": first.json()["session_id"]}
    assert is_refused(await nobody.post(PLAIN, json=body, headers=short))
    reply = await ask(carol, "two", first.json()["session_id"])
    assert (reply.status, reply.metadata["cached"]) == (200, False)
