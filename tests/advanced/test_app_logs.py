"""Logs: one JSON line a request, whatever happens, and nothing in it that is nobody's business."""

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from advanced.app.logs import formatter
from shared.offline_model import Scenario, ToolCall, Usage
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import (
    LOGIN,
    PASSWORDS,
    SECRET_KEY,
    UVICORN,
    Advanced,
    served_advanced,
)
from tests.advanced.watching import asking_bytes, becomes_true, log_lines
from tests.serving import KEY
from tests.talking import EITHER_WAY, PLAIN, STREAM, Reply, ask, request_bytes

CANARY = "canary-7f3a"
"""Part of every secret that the tests tell."""


@pytest.fixture(scope="module")
def both(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Advanced, str]]:
    """A service that uvicorn started by hand, and a user's token."""
    state = tmp_path_factory.mktemp("logs")
    with served_advanced(checkout, state, command=UVICORN) as service:
        yield service, service.log_in()


@pytest.fixture
def service(both: tuple[Advanced, str]) -> Advanced:
    both[0].model.clear()
    return both[0]


@pytest.fixture
async def client(service: Advanced, both: tuple[Advanced, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client(both[1]) as client:
        yield client


class Logged:
    """What a service prints from now on."""

    def __init__(self, service: Advanced) -> None:
        self._service = service
        self._before = len(service.process.output)

    @property
    def output(self) -> str:
        return self._service.process.output[self._before :]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return log_lines(self.output)

    async def requests_come(self, count: int) -> list[dict[str, Any]]:
        async def have_come() -> bool:
            return len(self.requests) >= count

        await becomes_true(have_come)
        return self.requests


def foreign(output: str) -> list[str]:
    """Lines that are no JSON objects."""
    found = []
    for line in output.splitlines():
        try:
            known = isinstance(json.loads(line), dict)
        except ValueError:
            known = False
        if not known and line:
            found.append(line)
    return found


def test_all_lines_are_json_however_it_was_started(both: tuple[Advanced, str]) -> None:
    """Also uvicorn's own, and the first ones, when it is started by hand."""
    output = both[0].process.output
    assert foreign(output) == []
    assert [line["logger"] for line in log_lines(output, "Application startup complete.")] == [
        "uvicorn.error"
    ]
    for line in map(json.loads, output.splitlines()):
        assert {"event", "level", "logger", "timestamp"} <= set(line)


def test_of_all_workers_too(shared_service: Advanced) -> None:
    """Beside the greeting every line is JSON, with two workers and their parent."""
    before, _, after = shared_service.process.output.partition("\nThe agent is at")
    greeting, _, rest = after.partition("\n")
    assert shared_service.url in greeting
    assert foreign(before) == foreign(rest) == []


@EITHER_WAY
async def test_one_line_tells_of_a_turn(
    service: Advanced, client: httpx.AsyncClient, path: str
) -> None:
    """At its end: who asked what of which session, how it went, and how long whom it took."""
    logged = Logged(service)
    service.model.respond(Scenario(pieces=["x"] * 6, token_delay=0.05, usage=Usage(11, 7)))
    reply = await ask(client, f"told {path}", path=path)
    [line] = await logged.requests_come(1)
    assert reply.headers["x-request-id"] == line["request_id"]
    assert {name: line[name] for name in ("method", "route", "status", "user", "tokens")} == {
        "method": "POST", "route": path, "status": 200, "user": "carol", "tokens": 18,
    }  # fmt: skip
    assert line["session"] == reply.session_id
    assert line["duration"] >= line["model_seconds"] >= 0.25
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


async def test_each_request_has_exactly_one(service: Advanced, client: httpx.AsyncClient) -> None:
    """Refusals, faults and unknown paths as well, in the order in which they end."""
    logged = Logged(service)
    service.model.enqueue(Scenario(status=400), Scenario(pieces=["Half", " of"], cut_after=1))
    replies: list[Reply | httpx.Response] = [
        await ask(client, "bad"),
        await ask(client, "half", path=STREAM),
        await client.post(PLAIN, json={"query": ""}),
        await client.post(PLAIN, content=b"x" * 70_000),
        await client.get("/nothing/here"),
        await client.get("/api/v1/session/unknown"),
        await client.get("/health/live"),
        await client.get("/api/v1/sessions", headers={"Authorization": "Bearer no"}),
    ]
    lines = await logged.requests_come(len(replies))
    session = "/api/v1/session/{session_id}"
    told = [(line["method"], line["route"], line["status"]) for line in lines]
    assert told == [
        ("POST", PLAIN, 502), ("POST", STREAM, 200), ("POST", PLAIN, 422), ("POST", PLAIN, 413),
        ("GET", "other", 404), ("GET", session, 404), ("GET", "/health/live", 200),
        ("GET", "/api/v1/sessions", 401),
    ]  # fmt: skip
    assert [line.get("user") for line in lines] == ["carol"] * 4 + [None, "carol", None, None]
    assert [line["request_id"] for line in lines] == [r.headers["x-request-id"] for r in replies]


@pytest.mark.parametrize(("path", "status"), [(PLAIN, None), (STREAM, 200)])
async def test_a_client_that_leaves_has_one_too(
    service: Advanced, both: tuple[Advanced, str], path: str, status: int | None
) -> None:
    """With the status that it was sent, if it was sent any."""
    logged = Logged(service)
    service.model.respond(Scenario(pieces=["Hello"], hang_after=1))
    with service.process.connect() as connection:
        connection.sendall(asking_bytes(both[1], f"leaving {path}", path))
        await service.model.wait_for_async(lambda m: m.call_count == 1)
        if path == STREAM:
            await asyncio.to_thread(connection.recv, 4096)
    [line] = await logged.requests_come(1)
    assert (line["route"], line["status"], line["user"]) == (path, status, "carol")
    await service.model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled")
    assert len(logged.requests) == 1


# --- what no line may have


def tells_the_canary(call: Any) -> Scenario:
    """Through every hand that an answer passes."""
    said = f"{CANARY} said"
    if call.messages[-1]["role"] == "tool":
        return Scenario(said)
    if "ask_analyst" in call.tool_names:
        return Scenario(tool_calls=[ToolCall("ask_analyst", {"task": said})], preamble=said)
    return Scenario(
        tool_calls=[ToolCall(tool, {"expression": said}) for tool in ("calculate", said)]
    )


FAULTS: dict[str, Any] = {
    "none": tells_the_canary,
    "status": Scenario(status=500),
    "refused": Scenario(status=401),
    "cut": Scenario(f"{CANARY} is half said", cut_after=2),
    "malformed": Scenario(f"{CANARY} is half said", malformed_after=2),
    "error in stream": Scenario(f"{CANARY} is half said", error_in_stream_after=2),
    "html": Scenario(html=True),
    "lone surrogate": Scenario(pieces=[CANARY, "\ud800"]),
    "wrong arguments": Scenario(tool_calls=[ToolCall("ask_analyst", f'{{"task": {CANARY}')]),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_nothing_that_people_say_is_logged(
    service: Advanced, client: httpx.AsyncClient, name: str
) -> None:
    """No question and no answer, however the model fails, and none of what carries secrets."""
    logged = Logged(service)
    service.model.respond(FAULTS[name])
    cookies = {"Cookie": f"session={CANARY}", "X-Api-Key": CANARY, "User-Agent": CANARY}
    for path in (PLAIN, STREAM):
        body = {"query": f"{CANARY} asked, {name}", "max_iterations": 6}
        async with client.stream(
            "POST", f"{path}?token={CANARY}", json=body, headers=cookies
        ) as response:
            await response.aread()
    lines = await logged.requests_come(2)
    assert len(lines) == 2
    assert CANARY not in logged.output
    hidden = [KEY, SECRET_KEY, str(client.headers["Authorization"]).removeprefix("Bearer ")]
    assert not any(secret in logged.output for secret in hidden)


async def test_no_word_of_a_login_is_logged(service: Advanced) -> None:
    """Neither passwords nor names that nobody has, which are often passwords; nor the token."""
    logged = Logged(service)
    async with service.client() as client:
        right = await client.post(LOGIN, data={"username": "carol", "password": PASSWORDS["carol"]})
        await client.post(LOGIN, data={"username": CANARY, "password": f"{CANARY}-too"})
        await client.post(LOGIN, json={"username": CANARY, "password": CANARY})
        await client.get("/api/v1/sessions", headers={"Authorization": f"Bearer a.{CANARY}.c"})
        await client.get("/api/v1/sessions", headers={"Authorization": f"Basic {CANARY}"})
    await logged.requests_come(5)
    assert CANARY not in logged.output
    assert PASSWORDS["carol"] not in logged.output
    assert right.json()["access_token"] not in logged.output


async def test_an_app_that_fails_says_where_and_not_what(
    service: Advanced, both: tuple[Advanced, str]
) -> None:
    """A bug's line has a type and places in the code; the client is told nothing of them."""
    logged = Logged(service)
    users = service.users_file.read_text()
    try:
        service.users_file.write_text(f'{{"{CANARY}": 7}}')
        async with service.client(both[1]) as client:
            reply = await ask(client, f"{CANARY} asked")
    finally:
        service.users_file.write_text(users)
        service.process.failure_expected = True
    [line] = await logged.requests_come(1)
    assert (reply.status, reply.code) == (500, "internal_error")
    assert line["status"] == 500
    assert CANARY not in logged.output
    assert foreign(logged.output) == []
    [failed] = [line for line in map(json.loads, logged.output.splitlines()) if "exception" in line]
    assert failed["level"] == "error"
    assert failed["request_id"] == line["request_id"]
    assert [raised["type"] for raised in failed["exception"]][-1] == "ConfigurationError"


FORGED = '{"event":"forged"}'
QUOTED = "%7B%22event%22%3A%22forged%22%7D"
LIVE = "/health/live"


@pytest.mark.parametrize(
    "raw",
    [
        request_bytes(method="GET", path=f"/api/v1/session/a%0a{QUOTED}"),
        request_bytes(method="GET", path=f"/%0d%0a{FORGED}"),
        request_bytes(method="GET", path=f"/?a=%0a{FORGED}"),
        request_bytes(method="GET", path=LIVE, headers={"X-Request-ID": f'"}}{FORGED}'}),
        request_bytes(method="GET", path=LIVE, headers={"X-Request-ID": f"a\x85{FORGED}"}),
        request_bytes(method="GET", path=LIVE, headers={"Authorization": f"Bearer \x0b{FORGED}"}),
        request_bytes(
            f"username=%0a{QUOTED}&password=x".encode(),
            path=LOGIN,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ),
    ],
)
async def test_no_line_can_be_forged(service: Advanced, raw: bytes) -> None:
    """Newlines and quotes, wherever they are put, end no line and begin no field."""
    logged = Logged(service)
    with service.process.connect() as connection:
        connection.sendall(raw)
        await asyncio.to_thread(connection.recv, 4096)
    async with service.client() as client:
        after = (await client.get(LIVE)).headers["x-request-id"]
    # What came before has been logged by then.
    await asyncio.to_thread(service.process.wait_for_output, after)
    assert foreign(logged.output) == []
    assert "forged" not in logged.output
    assert len(logged.output.splitlines()) <= 2


# --- how much is said


async def test_less_is_logged(serve: Serve) -> None:
    """LOG_LEVEL=WARNING: no lines for requests; what is the matter is still said."""
    service = serve(redis=False, LOG_LEVEL="warning")
    async with service.user() as client:
        assert (await ask(client, "hello")).status == 200
    assert log_lines(service.process.output) == []
    assert "No Redis: nothing is cached" in service.process.output


async def test_more_is_logged(serve: Serve) -> None:
    """DEBUG=true adds what an exception says, and changes no body; what is secret stays hidden."""
    service = serve(redis=False, command=UVICORN, DEBUG="true")
    service.process.failure_expected = True
    async with service.user() as client:
        service.users_file.write_text("no users")
        reply = await ask(client, "hello")
        bare = {"error": "Something went wrong on our side.", "detail": None}
        assert (reply.status, reply.body) == (500, {**bare, "code": "internal_error"})
    [failed] = log_lines(service.process.output, "POST failed in a way that nobody foresaw")
    assert "USERS_FILE" in " ".join(raised["says"] for raised in failed["exception"])
    assert foreign(service.process.output) == []
    secrets = (KEY, SECRET_KEY, PASSWORDS["carol"])
    assert not any(secret in service.process.output for secret in secrets)


def logged_exception(exc: Exception) -> dict[str, Any]:
    try:
        raise exc
    except type(exc):
        record = logging.LogRecord(
            "app", logging.ERROR, "app.py", 1, "It failed", (), sys.exc_info()
        )
    (told,) = json.loads(formatter().format(record))["exception"]
    return dict(told)


def test_what_is_still_to_write_is_told() -> None:
    """A NotImplementedError says what is to do; what other exceptions say may quote a question."""
    assert logged_exception(NotImplementedError("TODO 1: begin"))["says"] == "TODO 1: begin"
    assert logged_exception(ValueError(CANARY)).keys() == {"type", "frames"}
