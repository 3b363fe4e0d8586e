"""The advanced service's wire contract: what it answers, and what comes with every answer."""

import re
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from shared.offline_model import OfflineModel, Scenario
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import LOGIN, LOGOUT, PASSWORDS, SECRET_KEY, Advanced
from tests.talking import EITHER_WAY, PLAIN, STREAM, ask

ORIGIN = "https://course.example"
CSP = "default-src 'none'; frame-ancestors 'none'"
SUM = "What is 17.5% of 2480, minus 12?"


# --- what is answered


@EITHER_WAY
async def test_a_question_is_answered(carol: httpx.AsyncClient, path: str) -> None:
    """With the answer, its session, its time and tokens, and what it took; then from the cache."""
    for cached in (False, True):
        reply = await ask(carol, SUM, path=path)
        assert reply.status == 200
        assert "422" in reply.text
        assert re.fullmatch(r"[\w-]{22}", reply.session_id)
        assert reply.metadata["execution_time"] > 0
        assert reply.metadata["cached"] is cached
        assert reply.metadata["stopped"] is None
        assert (reply.metadata["tokens_used"] or 0) > 0 or cached
        assert not reply.events or reply.events[-1]["chunk"] == ""


async def test_a_session_can_be_read(carol: httpx.AsyncClient, model: OfflineModel) -> None:
    """Its times are UTC, its messages come when they are asked for; deleted, it is gone."""
    model.respond(Scenario("Good."))
    session = (await ask(carol, "hello")).session_id
    await ask(carol, "again", session)
    plain = (await carol.get(f"/api/v1/session/{session}")).json()
    full = (await carol.get(f"/api/v1/session/{session}?include=messages")).json()
    deleted = await carol.delete(f"/api/v1/session/{session}")
    assert plain["session_id"] == session
    assert plain["message_count"] == 4
    assert plain["messages"] is None
    times = [datetime.fromisoformat(plain[name]) for name in ("created_at", "last_activity")]
    assert times == sorted(times)
    assert {time.utcoffset() for time in times} == {timedelta(0)}
    assert [m["content"] for m in full["messages"]] == ["hello", "Good.", "again", "Good."]
    assert [m["role"] for m in full["messages"]] == ["user", "assistant"] * 2
    assert deleted.json() == {"message": "Session deleted", "session_id": session}
    assert (await carol.delete(f"/api/v1/session/{session}")).status_code == 404


async def test_the_service_says_what_it_is(nobody: httpx.AsyncClient) -> None:
    """`/`, the health pages and the playground need no token."""
    root = (await nobody.get("/")).json()
    assert set(root) == {"title", "version", "docs", "playground", "health"}
    health = (await nobody.get("/health")).json()
    assert health["status"] == "healthy"
    assert (set(health["dependencies"]), health["degraded"]) == (
        {"session_store", "redis", "model"},
        False,
    )
    assert (await nobody.get("/health/ready")).json() == health
    assert (await nobody.get("/health/live")).json() == {"status": "healthy"}
    page = await nobody.get("/playground")
    assert page.headers["content-type"].startswith("text/html")
    for path in (root["docs"], root["playground"], root["health"]):
        assert (await nobody.get(path)).status_code == 200


# --- what is refused


REFUSALS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/nowhere", {}, 404, "not_found"),
    ("POST", "/", {}, 405, "method_not_allowed"),
    ("GET", PLAIN, {}, 405, "method_not_allowed"),
    ("PUT", "/api/v1/session/x", {}, 405, "method_not_allowed"),
    ("GET", LOGIN, {}, 405, "method_not_allowed"),
    ("GET", LOGOUT, {}, 405, "method_not_allowed"),
    ("POST", "/health", {}, 405, "method_not_allowed"),
    ("GET", f"{PLAIN}/", {}, 404, "not_found"),
    ("GET", "/api/v1/session/nothing", {}, 404, "session_not_found"),
    ("GET", "/api/v1/session/x%2F..%2Fy", {}, 404, "not_found"),
    ("POST", PLAIN, {"json": {"query": "hello", "stream": True}}, 400, "use_stream_endpoint"),
    ("POST", PLAIN, {"json": {"query": " "}}, 422, "validation_error"),
    ("POST", STREAM, {"json": {"query": "x" * 2001}}, 422, "validation_error"),
    ("POST", PLAIN, {"json": {"query": "x", "5w0rdf15h": 1}}, 422, "validation_error"),
    ("POST", STREAM, {"json": {"query": "x", "max_iterations": 51}}, 422, "validation_error"),
    ("POST", PLAIN, {"content": b'{"query": "5w0rdf15h'}, 422, "validation_error"),
    ("POST", PLAIN, {"content": b'{"query": "\\ud800"}'}, 422, "validation_error"),
    ("POST", STREAM, {"content": b'{"query": NaN}'}, 422, "validation_error"),
    ("POST", PLAIN, {"content": b"[" * 30_000}, 422, "validation_error"),
    ("POST", STREAM, {"json": {"query": "x" * 70_000}}, 413, "too_large"),
    ("GET", "/api/v1/sessions?limit=0", {}, 422, "validation_error"),
    ("GET", "/api/v1/session/x?include=5w0rdf15h", {}, 422, "validation_error"),
]


@pytest.mark.parametrize(("method", "path", "sent", "status", "code"), REFUSALS)
async def test_a_refusal_is_an_error_response(
    carol: httpx.AsyncClient,
    model: OfflineModel,
    method: str,
    path: str,
    sent: dict[str, Any],
    status: int,
    code: str,
) -> None:
    """The contract's status and code, in one shape, with every header; what was sent stays out."""
    headers = {"Content-Type": "application/json", "X-Request-ID": "mine"}
    response = await carol.request(method, path, headers=headers, **sent)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert set(response.json()) == {"error", "detail", "code"}
    assert "5w0rdf15h" not in response.text
    assert (status == 405) == ("allow" in response.headers)
    assert_headers(response)
    assert response.headers["X-Request-ID"] == "mine"
    assert model.call_count == 0


def assert_headers(response: httpx.Response) -> None:
    """What comes with every response."""
    headers = response.headers
    assert 0 <= float(headers["X-Process-Time"]) < 30
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", headers["X-Request-ID"])
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers.get_list("server") in ([], ["uvicorn"])


async def test_every_answer_has_its_headers(
    carol: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    """Answers, streams, refusals, pages: all have the usual ones, the API's the RateLimit, too."""
    api = [
        await carol.post(PLAIN, json={"query": "hello"}),
        await carol.post(STREAM, json={"query": "hello"}),
        await carol.get("/api/v1/sessions"),
        await carol.get("/api/v1/session/nothing"),
        await carol.post(PLAIN, content=b"{"),
        await nobody.get("/api/v1/sessions"),
        await nobody.post(LOGIN, data={"username": "carol", "password": PASSWORDS["carol"]}),
    ]
    others = [await nobody.get(path) for path in ("/", "/health", "/nowhere", "/metrics", "/docs")]
    for response in [*api, *others]:
        assert_headers(response)
    for response in api:
        assert re.fullmatch(r'"default";q=1000000;w=60', response.headers["RateLimit-Policy"])
        assert re.fullmatch(r'"default";r=\d+;t=\d+', response.headers["RateLimit"])
        assert response.headers["Content-Security-Policy"] == CSP
    for response in others:
        assert "ratelimit" not in response.headers


@pytest.mark.parametrize("hostile", ["a b", "x" * 129, "<script>", "a\tb", "\xe9", '"', ""])
async def test_a_hostile_request_id_is_replaced(nobody: httpx.AsyncClient, hostile: str) -> None:
    """What could break a log or a page does not come back."""
    headers = {b"X-Request-ID": hostile.encode("latin-1")}
    response = await nobody.get("/health/live", headers=headers)
    assert re.fullmatch(r"[0-9a-f-]{36}", response.headers["X-Request-ID"])


# --- pages from elsewhere


async def preflight(client: httpx.AsyncClient, origin: str, **more: str) -> httpx.Response:
    usual = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return await client.options(PLAIN, headers={"Origin": origin, **usual, **more})


async def test_pages_of_named_origins_may_ask(
    carol: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    """The preflight for Authorization is granted without a token; refusals can be read, too."""
    granted = await preflight(nobody, ORIGIN)
    assert granted.status_code == 200
    assert granted.headers["Access-Control-Allow-Origin"] == ORIGIN
    allowed = granted.headers["Access-Control-Allow-Headers"].lower()
    assert {"authorization", "content-type"} <= set(allowed.replace(" ", "").split(","))
    assert "access-control-allow-credentials" not in granted.headers
    for response in (
        await carol.post(PLAIN, json={"query": "hello"}, headers={"Origin": ORIGIN}),
        await carol.post(STREAM, json={"query": "hello"}, headers={"Origin": ORIGIN}),
        await nobody.post(PLAIN, json={"query": "hello"}, headers={"Origin": ORIGIN}),
        await carol.get("/nowhere", headers={"Origin": ORIGIN}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]
        assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://course.example.evil.example", "null",
               "http://course.example", "https://course.example:8443", "https://COURSE.example"],
)  # fmt: skip
async def test_other_pages_may_not(
    carol: httpx.AsyncClient, nobody: httpx.AsyncClient, origin: str
) -> None:
    """No header lets them read an answer, and the preflight's refusal is an ErrorResponse."""
    refused = await preflight(nobody, origin)
    answered = await carol.get("/api/v1/sessions", headers={"Origin": origin})
    assert (refused.status_code, refused.json()["code"]) == (400, "cors_refused")
    for response in (refused, answered):
        assert "access-control-allow-origin" not in response.headers
    other = await preflight(nobody, ORIGIN, **{"Access-Control-Request-Headers": "x-evil"})
    assert other.status_code == 400


async def test_production_with_credentials_and_a_closed_door(serve: Serve) -> None:
    """Cookies for the named origin alone; metrics for nobody; HTTPS remembered by browsers."""
    service: Advanced = serve(
        redis=False,
        ENVIRONMENT="production",
        DEMO_USERS="",
        SECRET_KEY=SECRET_KEY,
        CORS_ORIGINS=ORIGIN,
        CORS_ALLOW_CREDENTIALS="true",
        RATE_LIMIT_REQUESTS="3",
    )
    async with service.user("carol") as carol, service.client() as nobody:
        granted = await preflight(nobody, ORIGIN)
        refused = await preflight(nobody, "https://evil.example")
        metrics = await nobody.get("/metrics")
        statuses = [(await carol.get("/api/v1/sessions")).status_code for _ in range(4)]
        limited = await carol.post(PLAIN, content=b"{", headers={"Origin": ORIGIN})
    assert granted.headers["Access-Control-Allow-Credentials"] == "true"
    assert granted.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "access-control-allow-origin" not in refused.headers
    assert metrics.status_code == 401
    assert statuses == [200, 200, 200, 429]
    assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert limited.headers["Access-Control-Allow-Origin"] == ORIGIN
    for response in (granted, metrics, limited):
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert service.model.call_count == 0
