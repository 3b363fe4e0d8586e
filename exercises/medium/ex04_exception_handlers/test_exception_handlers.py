"""The graded suite of exercise 4: what clients and the log are told when something goes wrong."""

import asyncio
import contextlib
import json
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from grader.judge import PLAIN, STREAM, Client, check, event_data
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario

BUGS = ["KeyError", "RuntimeError", "ValueError"]
INCIDENT = re.compile(r"\bincident ([A-Za-z0-9_-]{8,64})\b")
INSIDES = ("postgres", "db.internal", "cannot file", "Traceback", ".py", *BUGS)
"""Of the text of every bug that can be rehearsed."""

UPSTREAM = ("line 1", "column", "(char", "orjson", "JSONDecode")
"""Of what a library says about an answer that is broken JSON."""


@pytest.fixture(autouse=True)
def one_call_a_turn(model: OfflineModel) -> None:
    model.respond(Scenario("Good."))


@pytest.fixture
def secret(rng: random.Random) -> str:
    """A word that comes from the client or from a bug, and that no answer may repeat."""
    return new_secret(rng)


def new_secret(rng: random.Random) -> str:
    return f"q{rng.randrange(16**12):012x}"


def question(query: str, **more: Any) -> dict[str, Any]:
    return {"query": query, **more}


# --- what an answer has to be


def error_of(response: httpx.Response, status: int, code: str, what: str) -> dict[str, Any]:
    """The ErrorResponse, after its status, form and code have been looked at."""
    assert response.status_code == status, f"{what} should be answered with the status {status}"
    try:
        body = response.json()
    except ValueError:
        raise AssertionError(f"{what} should be answered with JSON, an ErrorResponse") from None
    return error_like(body, code, what)


def error_like(body: Any, code: str, what: str) -> dict[str, Any]:
    assert isinstance(body, dict), f"{what} should be answered with an ErrorResponse"
    assert set(body) == {"error", "detail", "code"}, (
        f"{what} should be answered with an ErrorResponse: error, detail and code, and no more"
    )
    assert isinstance(body["error"], str), "`error` is a sentence for people"
    assert body["error"], "`error` is a sentence for people"
    assert body["code"] == code, f"the code of {what} should be {code}"
    return dict(body)


def keeps(response: httpx.Response, *secrets: str) -> None:
    """Nothing of the input, and nothing from inside, is in the answer."""
    said = response.text + str(response.headers)
    for word in secrets:
        assert word not in said, "the answer repeats something that the client sent"
    for word in INSIDES:
        assert word not in said, "the answer tells something from inside, a bug's name or text"


def incident_of(body: dict[str, Any]) -> str:
    found = INCIDENT.search(body["detail"] or "")
    assert found, "`detail` should be `incident ` and an id: 8 to 64 letters, digits, _ or -"
    return found[1]


# --- what the log has to be


def records(output: str) -> list[str]:
    """Each record of the log with what stands behind its bars."""
    return re.split(r"\n(?!  \| )", output)


async def logged(client: Client, id_: str, secret: str) -> None:
    """Wait until one record has the incident's id, a traceback and the bug's own text."""
    until = time.monotonic() + 4
    while time.monotonic() < until:
        mine = [record for record in records(client.output) if id_ in record]
        if any("Traceback (most recent" in record and secret in record for record in mine):
            return
        await asyncio.sleep(0.01)
    assert mine, "the log should have a record with the incident's id"
    assert any("Traceback (most recent" in record for record in mine), (
        "the record with the incident's id should have the traceback, too"
    )
    raise AssertionError("the traceback beside an incident's id should be that incident's own")


# --- bugs


@check("unforeseen")
async def test_unforeseen(service: Service, rng: random.Random, secret: str) -> None:
    """Whatever bug it is, the client gets a 500 with an incident's id and none of its words."""
    async with service() as client:
        for kind in rng.sample(BUGS, len(BUGS)):
            response = await client.post(PLAIN, json=question(f"snap {kind} {secret}"))
            incident_of(error_of(response, 500, "internal_error", "a bug"))
            keeps(response, secret)
        response = await client.get(f"/api/v1/session/snap-{secret}")
        incident_of(error_of(response, 500, "internal_error", "a bug behind another address"))
        keeps(response, secret)


@check("incident_in_log")
async def test_incident_in_log(service: Service, rng: random.Random) -> None:
    """Each incident has an id of its own, and its record in the log has the traceback."""
    secrets = [new_secret(rng) for _ in range(4)]
    headers = {"X-Request-ID": "the-same-for-all"}
    async with service() as client:
        replies = await asyncio.gather(
            *(
                client.post(PLAIN, json=question(f"snap {word}"), headers=headers)
                for word in secrets
            )
        )
        ids = [incident_of(error_of(r, 500, "internal_error", "a bug")) for r in replies]
        assert len(set(ids)) == len(ids), "two incidents should never have the same id"
        for id_, word in zip(ids, secrets, strict=True):
            await logged(client, id_, word)


@check("bug_inside_a_turn")
async def test_bug_inside_a_turn(service: Service, rng: random.Random, secret: str) -> None:
    """A bug in the middle of a turn, which comes as a bare AgentError, is an incident as well."""
    async with service() as client:
        response = await client.post(PLAIN, json=question(f"break {rng.choice(BUGS)} {secret}"))
        id_ = incident_of(error_of(response, 500, "internal_error", "a bug inside a turn"))
        keeps(response, secret)
        await logged(client, id_, secret)


@check("keeps_headers")
async def test_keeps_headers(service: Service, secret: str) -> None:
    """Errors have the headers that every answer has, a bug's 500 included."""
    wanted = {"X-Request-ID": f"r-{secret}"}
    async with service() as client:
        good = await client.post(PLAIN, json=question("hello"), headers=wanted)
        lost = await client.get("/api/v1/session/x", headers=wanted)
        bug = await client.post(PLAIN, json=question("snap"), headers=wanted)
    assert good.status_code == 200, "a question should be answered"
    error_of(lost, 404, "session_not_found", "an unknown session")
    error_of(bug, 500, "internal_error", "a bug")
    for response, what in ((lost, "a 404"), (bug, "a bug's 500")):
        for name in ("X-Request-ID", "X-Content-Type-Options", "Cache-Control"):
            assert response.headers.get(name) == good.headers[name], (
                f"{what} should have the header {name}, as every other answer has"
            )


# --- the family


@check("agent_errors")
async def test_agent_errors(service: Service, model: OfflineModel, secret: str) -> None:
    """Each error of the family is answered with its own status and code."""
    async with service(TURN_WAIT=0.2) as client:
        response = await client.post(PLAIN, json=question("hello", stream=True))
        error_of(response, 400, "use_stream_endpoint", "`stream: true` sent to /query")
        response = await client.get(f"/api/v1/session/{secret}")
        error_of(response, 404, "session_not_found", "an unknown session")
        keeps(response, secret)
        model.enqueue(Scenario(html=True), Scenario(status=503, retry_after=9))
        response = await client.post(PLAIN, json=question("hello"))
        error_of(response, 502, "model_error", "a model that answers nonsense")
        response = await client.post(PLAIN, json=question("hello"))
        error_of(response, 503, "model_unavailable", "a busy model")
        async with holding(client, model, secret):
            response = await client.post(PLAIN, json=question("and?", session_id=secret))
        error_of(response, 409, "session_busy", "a turn of a busy session")
        keeps(response, secret)


@contextlib.asynccontextmanager
async def holding(client: Client, model: OfflineModel, session_id: str) -> AsyncIterator[None]:
    """While the block lasts, a turn of the session waits for a model that is silent."""
    model.enqueue(Scenario(hang=True))
    calls = model.call_count
    first = asyncio.create_task(client.post(PLAIN, json=question("wait", session_id=session_id)))
    await model.wait_for_async(lambda model: model.call_count > calls)
    yield
    first.cancel()
    await asyncio.wait([first])


@check("agent_errors")
async def test_a_slow_model(service: Service, model: OfflineModel) -> None:
    """A model that says nothing in time is a 504."""
    model.respond(Scenario(hang=True))
    async with service(REQUEST_TIMEOUT=0.2) as client:
        response = await client.post(PLAIN, json=question("hello"))
    error_of(response, 504, "model_timeout", "a model that is silent for too long")


@check("retry_after")
async def test_retry_after(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """An error that says when to come back says so in Retry-After."""
    async with service() as client:
        for path in (PLAIN, STREAM):
            seconds = rng.randint(2, 60)
            model.respond(Scenario(status=429, retry_after=seconds))
            response = await client.post(path, json=question("hello"))
            error_of(response, 503, "model_unavailable", "a busy model")
            assert response.headers.get("Retry-After") == str(seconds), (
                "Retry-After should be the number of seconds that the error carries"
            )


@check("upstream_not_told")
async def test_upstream_not_told(service: Service, model: OfflineModel) -> None:
    """Why the model's answer could not be read is for the log, before and after the first byte."""
    pieces = ["One", " two"]
    model.enqueue(
        Scenario(pieces=pieces, malformed_after=0), Scenario(pieces=pieces, malformed_after=1)
    )
    async with service() as client:
        plain = await client.post(PLAIN, json=question("hello"))
        body = error_of(plain, 502, "model_error", "a model's answer that cannot be read")
        _, events = await streamed(client, "hello")
    late = error_like(last_error(events), "model_error", "an answer that breaks off")
    for told in (body, late):
        for word in UPSTREAM:
            assert word not in f"{told['error']} {told['detail']}", (
                "an error should not tell what a library said about the model's answer"
            )


# --- what clients do wrong


@check("invalid_input")
async def test_invalid_input(service: Service, rng: random.Random) -> None:
    """What is not valid is a 422 that names the field."""
    mistakes: dict[str, Any] = {
        "query": rng.choice(["", "  ", None, 7]),
        "session_id": rng.choice(["a b", "a/b", "", 5]),
        "max_iterations": rng.choice([0, 51, "ten", True]),
    }
    async with service() as client:
        for field, value in mistakes.items():
            response = await client.post(PLAIN, json={"query": "hello", field: value})
            body = error_of(response, 422, "validation_error", "a field that is not valid")
            assert field in (body["detail"] or ""), "`detail` should name the field to change"
        response = await client.get("/api/v1/session/x?include=everything")
        body = error_of(response, 422, "validation_error", "a parameter that is not valid")
        assert "include" in (body["detail"] or ""), "`detail` should name the parameter to change"


@check("unreadable_body")
async def test_unreadable_body(service: Service, secret: str) -> None:
    """A body that is no JSON, not even text, or JSON that never ends, is a 422 as well."""
    bodies = {
        "a body that is not JSON": b'{"query": ' + secret.encode(),
        "a body that is not UTF-8": b'{"query": "' + secret.encode() + b' \xff\xfe"}',
        "a body without an end": b"[" * 20_000,
        "an empty body": b"",
    }
    headers = {"Content-Type": "application/json"}
    async with service() as client:
        for what, body in bodies.items():
            for path in (PLAIN, STREAM):
                response = await client.post(path, content=body, headers=headers)
                error_of(response, 422, "validation_error", what)
                keeps(response, secret)


@check("input_not_echoed")
async def test_input_not_echoed(service: Service, secret: str) -> None:
    """A refusal repeats neither the value nor, if it is no field of ours, the name."""
    bodies: list[bytes] = [
        json.dumps(body).encode()
        for body in (
            question(secret * 200),
            question("hello", session_id=f"{secret} {secret}"),
            question("hello", max_iterations=secret),
            question("hello", **{secret: 1}),
            [secret],
        )
    ]
    bodies.append(b'{"query": "\\ud800 %b"}' % secret.encode())
    bodies.append(b'{"query": "%b", "max_iterations": NaN}' % secret.encode())
    headers = {"Content-Type": "application/json"}
    async with service() as client:
        for body in bodies:
            response = await client.post(PLAIN, content=body, headers=headers)
            error_of(response, 422, "validation_error", "a body that is not valid")
            keeps(response, secret)
        response = await client.get(f"/api/v1/session/x?include={secret}")
        error_of(response, 422, "validation_error", "a parameter that is not valid")
        keeps(response, secret)


@check("framework_refusals")
async def test_framework_refusals(service: Service, secret: str) -> None:
    """What the framework refuses by itself, 404, 405 and 413, has the same form."""
    large = json.dumps(question("x" * 70_000)).encode()

    async def in_pieces() -> AsyncIterator[bytes]:
        yield large[:1000]
        yield large[1000:]

    headers = {"Content-Type": "application/json"}
    async with service() as client:
        response = await client.get(f"/api/v1/{secret}?{secret}")
        error_of(response, 404, "not_found", "an unknown address")
        keeps(response, secret)
        response = await client.put(PLAIN, json={})
        error_of(response, 405, "method_not_allowed", "a method that an address does not take")
        for content in (large, in_pieces()):
            response = await client.post(PLAIN, content=content, headers=headers)
            error_of(response, 413, "too_large", "a body over 64 KiB")


@check("unauthorised")
async def test_unauthorised(service: Service, secret: str) -> None:
    """A 401 keeps its WWW-Authenticate, and says nothing about what was tried."""
    async with service() as client:
        tried = {"Authorization": f"Bearer {secret}"}
        response = await client.get("/api/v1/whoami", headers=tried)
        error_of(response, 401, "unauthorized", "a wrong token")
        keeps(response, secret)
        assert response.headers.get("WWW-Authenticate") == 'Bearer realm="agent"', (
            "a 401 should keep the header WWW-Authenticate that came with it"
        )


@check("allow_names_all")
async def test_allow_names_all(service: Service) -> None:
    """A 405 has Allow, which names every method of the address, not those of one route alone."""
    async with service() as client:
        for path, methods in ((PLAIN, {"POST"}), ("/api/v1/session/x", {"GET", "DELETE"})):
            response = await client.patch(path)
            error_of(response, 405, "method_not_allowed", "a method that an address does not take")
            allow = {name.strip() for name in response.headers.get("Allow", "").split(",")}
            assert allow - {"HEAD", "OPTIONS"} == methods, (
                "Allow should name every method that the address takes, and no other"
            )


# --- streams


async def streamed(client: Client, query: str) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """A stream to its end, which has to be in order."""
    try:
        response = await client.post(STREAM, json=question(query))
    except httpx.HTTPError:
        raise AssertionError("the stream breaks off, where its last event should say why") from None
    assert response.status_code == 200, "a stream whose first chunk is out has the status 200"
    try:
        events = [json.loads(data) for data in event_data(response.content)]
        done = [event["done"] for event in events]
    except (ValueError, KeyError, TypeError):
        raise AssertionError("every event of a stream should be a StreamChunk") from None
    assert done == [False] * (len(done) - 1) + [True], (
        "exactly one event of a stream is done: the last, also when the turn has failed"
    )
    return response, events


def last_error(events: list[dict[str, Any]]) -> Any:
    error = (events[-1]["metadata"] or {}).get("error")
    assert error is not None, "the last event of a failed stream has the error in its metadata"
    return error


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["chunk"] for event in events)


@check("stream_error_event")
async def test_stream_error_event(
    service: Service, model: OfflineModel, rng: random.Random
) -> None:
    """An error after the first chunk is the last event; before it, it is a status."""
    pieces = [f"{word} " for word in rng.sample(["red", "blue", "green", "white", "grey"], 5)]
    told = rng.randint(1, 4)
    model.enqueue(Scenario(pieces=pieces), Scenario(pieces=pieces, cut_after=told))
    model.respond(Scenario(html=True))
    async with service() as client:
        _, whole = await streamed(client, "hello")
        _, events = await streamed(client, "hello")
        early = await client.post(STREAM, json=question("hello"))
    assert text_of(whole) == "".join(pieces), "a stream should carry the model's words"
    assert "error" not in whole[-1]["metadata"], "a stream that went well has no error"
    assert text_of(events) == "".join(pieces[:told]), "what was told before the error stays told"
    error_like(last_error(events), "model_error", "an answer that breaks off")
    error_of(early, 502, "model_error", "an error before the first chunk")


@check("stream_bug")
async def test_stream_bug(service: Service, rng: random.Random) -> None:
    """A bug after the first chunk is the last event, with an incident that the log knows."""
    async with service() as client:
        for word in rng.sample(["snap", "break"], 2):
            secret = new_secret(rng)
            response, events = await streamed(client, f"{word} {rng.choice(BUGS)} {secret}")
            assert text_of(events) == "Good.", "what was told before the bug stays told"
            error = error_like(last_error(events), "internal_error", "a bug in a stream")
            keeps(response, secret)
            await logged(client, incident_of(error), secret)


@check("leaving_is_no_incident")
async def test_leaving_is_no_incident(service: Service, model: OfflineModel) -> None:
    """A client that leaves in the middle stops the model, and nothing in the log cries wolf."""
    model.enqueue(Scenario(pieces=["One"], hang_after=1))
    async with service() as client:
        async with client.stream("POST", STREAM, json=question("hello")) as response:
            assert response.status_code == 200, "a stream should be answered with 200"
            first = await anext(response.aiter_raw())
            assert b"One" in first, "the first chunk should be sent as soon as it is there"
        await model.wait_for_async(lambda model: model.calls[0].outcome == "cancelled")
        client.signal(signal.SIGTERM)
        await everything_printed(client)
        log = client.output
    assert "Traceback" not in log, (
        "a client that leaves is no error: the log should have no traceback for it"
    )


async def everything_printed(client: Client) -> None:
    """What it says last of all comes through the same pipe as what it logged before."""
    for _ in range(500):
        if "Finished server process" in client.output:
            break
        await asyncio.sleep(0.01)
