"""What the medium service says when all is well: bodies, headers, events, the agent's answers."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from shared.offline_model import OfflineModel, Scenario, ToolCall, Usage
from tests.serving import Service, with_model
from tests.talking import EITHER_WAY, PLAIN, STREAM, arriving, ask

HARD_TEXT = [
    "two\nlines\n\nand a blank one",
    "data: not an event\n\ndata: [DONE]\n\nevent: x\nid: 1\n: a comment",
    "\r\n carriage \r returns \r\n\r\n",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467, flag \U0001f1ea\U0001f1fa, e\u0301",
    "separators \u2028 and \u2029 and \u0085 and \x0b \x0c \x1c",
    "nul \x00, delete \x7f, bell \x07, byte order mark \ufeff, replacement \ufffd, \uffff",
    '{"chunk": "x", "done": true} </script> \\n \\u0000 {{ }} %s ${x}',
]
"""Pieces as a model may send them, each hostile to some way of framing events."""


async def test_root_says_what_this_is_and_where_to_go(client: httpx.AsyncClient) -> None:
    """`GET /` names the service and links to its docs, playground and health, which all answer."""
    root = (await client.get("/")).json()
    links = [root["docs"], root["playground"], root["health"], "/openapi.json"]
    answers = {link: (await client.get(link)).status_code for link in links}
    assert root["title"]
    assert root["version"]
    assert answers == {"/docs": 200, "/playground": 200, "/health": 200, "/openapi.json": 200}


async def test_health(client: httpx.AsyncClient) -> None:
    """`GET /health` is `{"status": "healthy"}`."""
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "healthy"})


async def test_playground_is_a_page(client: httpx.AsyncClient) -> None:
    """`GET /playground` is HTML."""
    response = await client.get("/playground")
    assert response.headers["content-type"].startswith("text/html")
    assert "<html" in response.text


async def test_plain_answer(client: httpx.AsyncClient, model: OfflineModel) -> None:
    """A plain query is answered with exactly the fields of a QueryResponse, usage included."""
    model.respond(Scenario("Hello there.", usage=Usage(30, 12)))
    before = time.perf_counter()
    response = await client.post(PLAIN, json={"query": "Say hello"})
    took = time.perf_counter() - before
    body = response.json()
    assert response.status_code == 200
    assert UUID(body.pop("session_id"))
    assert 0 < body.pop("execution_time") <= took
    assert body == {
        "response": "Hello there.",
        "tokens_used": 42,
        "metadata": {"iterations": 1, "tools": [], "cached": False, "stopped": None},
    }


async def test_streamed_answer(client: httpx.AsyncClient, model: OfflineModel) -> None:
    """A stream is text/event-stream of chunks with their agent; the last event tells the rest."""
    model.respond(Scenario(pieces=["Hel", "lo"], usage=Usage(30, 12)))
    reply = await ask(client, "Say hello", path=STREAM)
    *pieces, last = reply.events
    assert reply.headers["content-type"].split(";")[0] == "text/event-stream"
    assert pieces == [
        {"chunk": "Hel", "done": False, "metadata": {"agent": "supervisor"}},
        {"chunk": "lo", "done": False, "metadata": {"agent": "supervisor"}},
    ]
    told = last.pop("metadata")
    assert last == {"chunk": "", "done": True}
    assert UUID(told.pop("session_id"))
    assert told.pop("execution_time") > 0
    assert told == {"tokens_used": 42, "iterations": 1, "cached": False, "stopped": None}


@EITHER_WAY
async def test_tokens_used_is_null_when_none_were_reported(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """Without usage from the model `tokens_used` is null, not a guess."""
    model.respond(Scenario("Hello.", usage=False))
    assert (await ask(client, "Say hello", path=path)).metadata["tokens_used"] is None


@EITHER_WAY
async def test_the_team_answers_a_question_with_two_parts(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """A question on the handbook and on numbers goes through both specialists, and is answered."""
    question = "How do I stream tokens with FastAPI? And what is 17.5% of 2480, minus 12?"
    reply = await ask(client, question, path=path)
    assert "422" in reply.text
    assert re.search(r"[a-z-]+\.md", reply.text)
    assert reply.metadata["iterations"] == model.call_count == 6
    assert {name for call in model.calls for name in call.tool_names} == {
        "ask_researcher",
        "ask_analyst",
        "search_handbook",
        "calculate",
    }


async def test_tools_are_told_as_they_are_called(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Tool calls are events with the agent, the name and the arguments, and are in metadata."""
    calculation = {
        "agent": "analyst",
        "name": "calculate",
        "arguments": {"expression": "17.5% of 2480 - 12"},
    }
    question = "What is 17.5% of 2480, minus 12?"
    plain, stream = await ask(client, question), await ask(client, question, path=STREAM)
    told = [
        {"agent": event["metadata"]["agent"], **event["metadata"]["tool"]}
        for event in stream.events
        if event["metadata"].get("tool")
    ]
    assert plain.metadata["tools"][1] == told[1] == calculation
    assert [tool["name"] for tool in told] == ["ask_analyst", "calculate"]


async def test_events_arrive_while_the_model_still_writes(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """The first token is at the client before the model has sent its last; no two are merged."""
    model.respond(Scenario(pieces=[f"{n} " for n in range(10)], token_delay=0.1))
    async with client.stream("POST", STREAM, json={"query": "Count"}) as response:
        sent_at_arrival = [
            model.calls[0].pieces_sent async for event in arriving(response) if not event["done"]
        ]
    assert len(sent_at_arrival) == 10
    assert sent_at_arrival[0] < 10
    assert sent_at_arrival == sorted(set(sent_at_arrival)), "they came in lumps"


@EITHER_WAY
@pytest.mark.parametrize("text", HARD_TEXT)
async def test_hard_text_arrives_intact(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str, text: str
) -> None:
    """What the model says reaches the client, and the session, character for character."""
    pieces = ["so: ", text, *text]
    model.respond(Scenario(pieces=pieces))
    reply = await ask(client, "Say it", session_id, path)
    session = await client.get(f"/api/v1/session/{session_id}", params={"include": "messages"})
    assert reply.text == "".join(pieces)
    assert session.json()["messages"][1] == {"role": "assistant", "content": reply.text}
    if path == STREAM:
        assert [event["chunk"] for event in reply.events[:-1]] == pieces


async def test_events_survive_careless_clients(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A client that takes U+2028 and its like for the end of a line reads the same events."""
    model.respond(Scenario(pieces=HARD_TEXT))
    reply = await ask(client, "Say it", path=STREAM)
    careless = [
        json.loads(line.removeprefix("data: ")) for line in reply.raw.decode().splitlines() if line
    ]
    assert careless == list(reply.events)


@EITHER_WAY
async def test_white_space_is_an_answer_of_its_own_kind(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """An answer that begins and ends with white space keeps it."""
    model.respond(Scenario(pieces=["\n\n ", "word", " \t\n"]))
    assert (await ask(client, "Say it", path=path)).text == "\n\n word \t\n"


async def test_a_preamble_and_the_answer_are_both_told_and_stored(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """What the model says before it calls a tool is part of the answer: streamed, plain, stored."""
    thinking = Scenario(tool_calls=[ToolCall("nobody", {})], preamble="Let me see.")
    model.enqueue(thinking, Scenario("It is so."), thinking, Scenario("It is so."))
    plain = await ask(client, "Is it?", session_id)
    stream = await ask(client, "Is it?", session_id, STREAM)
    session = await client.get(f"/api/v1/session/{session_id}?include=messages")
    stored = [message["content"] for message in session.json()["messages"]]
    assert plain.text == stream.text == "Let me see.\n\nIt is so."
    assert stored == ["Is it?", plain.text, "Is it?", plain.text]


# --- headers


async def checked_headers(response: httpx.Response) -> None:
    headers = response.headers
    assert float(headers["x-process-time"]) >= 0
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", headers["x-request-id"])
    assert headers["x-content-type-options"] == "nosniff"
    for name in ("x-process-time", "x-request-id", "x-content-type-options", "cache-control"):
        assert len(headers.get_list(name)) == 1, name


REQUESTS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "root": ("GET", "/", {}, 200),
    "health": ("GET", "/health", {}, 200),
    "query": ("POST", PLAIN, {"json": {"query": "Hello"}}, 200),
    "stream": ("POST", STREAM, {"json": {"query": "Hello"}}, 200),
    "sessions": ("GET", "/api/v1/sessions", {}, 200),
    "unknown session": ("GET", "/api/v1/session/nobody", {}, 404),
    "unknown path": ("GET", "/nowhere", {}, 404),
    "wrong method": ("PUT", PLAIN, {}, 405),
    "use stream": ("POST", PLAIN, {"json": {"query": "Hello", "stream": True}}, 400),
    "too large": ("POST", PLAIN, {"content": b" " * 70_000}, 413),
    "invalid": ("POST", PLAIN, {"json": {}}, 422),
    "invalid stream": ("POST", STREAM, {"json": {}}, 422),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_response_has_the_headers(client: httpx.AsyncClient, name: str) -> None:
    """Every response has a request id, its time and nosniff; API answers are not to be stored."""
    method, path, more, status = REQUESTS[name]
    response = await client.request(method, path, **more)
    assert response.status_code == status
    await checked_headers(response)
    assert response.headers["cache-control"] == "no-store"
    if status >= 400:
        assert set(response.json()) == {"error", "detail", "code"}


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [
        (404, "session_not_found", "unknown session"),
        (404, "not_found", "unknown path"),
        (405, "method_not_allowed", "wrong method"),
        (400, "use_stream_endpoint", "use stream"),
        (413, "too_large", "too large"),
        (422, "validation_error", "invalid"),
    ],
)
async def test_codes_of_refusals(
    client: httpx.AsyncClient, status: int, code: str, name: str
) -> None:
    """Each refusal has its status and its code, as JSON."""
    method, path, more, _ = REQUESTS[name]
    response = await client.request(method, path, **more)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PLAIN, {"POST"}),
        ("GET", STREAM, {"POST"}),
        ("POST", "/health", {"GET"}),
        ("PATCH", "/api/v1/session/x", {"GET", "DELETE"}),
        ("TRACE", "/api/v1/sessions", {"GET"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    """A 405 is an ErrorResponse and keeps its Allow header, whole."""
    response = await client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert set(re.split(r"[, ]+", response.headers["allow"])) == allowed


async def test_a_request_id_is_kept(client: httpx.AsyncClient) -> None:
    """A harmless X-Request-ID comes back, on answers and on errors."""
    for path in ("/health", "/nowhere"):
        response = await client.get(path, headers={"X-Request-ID": "job-7.retry_2"})
        assert response.headers["x-request-id"] == "job-7.retry_2"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"a b",
        b"x" * 129,
        b"<script>",
        b"a,b",
        b"\xff\xfe",
        b"caf\xc3\xa9",
        b"a;b",
        b'"',
        b"../x\\",
    ],
)
async def test_a_hostile_request_id_is_replaced(client: httpx.AsyncClient, hostile: bytes) -> None:
    """An X-Request-ID that could do harm in a log is replaced by one of ours."""
    response = await client.get("/health", headers=[(b"X-Request-ID", hostile)])
    assert UUID(response.headers["x-request-id"])


async def test_process_time_is_to_the_first_byte(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A stream's X-Process-Time is the time to its first byte: not zero, not its whole length."""
    model.respond(Scenario(pieces=["a", "b"], first_token_delay=0.3, token_delay=0.4))
    before = time.perf_counter()
    reply = await ask(client, "Slowly", path=STREAM)
    took = time.perf_counter() - before
    assert 0.3 <= float(reply.headers["x-process-time"]) <= took - 0.3


async def test_an_unforeseen_failure_is_a_500_without_its_words(
    checkout: Path, tmp_path: Path, model: OfflineModel
) -> None:
    """A bug in a route is a 500 ErrorResponse with all headers; its words are in the log alone."""
    (tmp_path / "with_a_bug.py").write_text(
        "from medium.app.main import create_app\n"
        "app = create_app()\n"
        "@app.get('/bug')\n"
        "async def bug() -> None:\n"
        "    raise RuntimeError('the word is swordfish')\n"
    )
    environment = with_model(model, PYTHONPATH=str(tmp_path), CORS_ORIGINS="https://course.example")
    with Service(checkout, environment, app="with_a_bug:app") as service:
        service.failure_expected = True
        async with service.client() as client:
            response = await client.get("/bug", headers={"Origin": "https://course.example"})
            after = await client.get("/health")
        service.wait_for_output("the word is swordfish")
    assert response.status_code == 500
    await checked_headers(response)
    assert response.headers["access-control-allow-origin"] == "https://course.example"
    assert response.json()["code"] == "internal_error"
    assert "swordfish" not in response.text
    assert "Traceback" not in response.text
    assert after.status_code == 200


# --- CORS


async def test_an_allowed_origin_may_read(client: httpx.AsyncClient) -> None:
    """A page from an origin of CORS_ORIGINS may read answers, errors and our headers."""
    for path, status in (("/health", 200), ("/nowhere", 404)):
        response = await client.get(path, headers={"Origin": "http://localhost:5173"})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "http://localhost:5173"
        assert "x-request-id" in response.headers["access-control-expose-headers"].lower()
        assert "origin" in response.headers["vary"].lower()


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "https://course.example.evil.example",
        "http://course.example",
    ],
)
async def test_other_origins_may_not_read(client: httpx.AsyncClient, origin: str) -> None:
    """No other origin is named in an answer, and neither is `*`."""
    response = await client.get("/health", headers={"Origin": origin})
    assert "access-control-allow-origin" not in response.headers


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }


async def test_preflight(client: httpx.AsyncClient) -> None:
    """The preflight of an allowed origin names the method and the header; it needs no body."""
    response = await client.options(PLAIN, headers=preflight("https://course.example"))
    assert response.status_code in {200, 204}
    assert response.headers["access-control-allow-origin"] == "https://course.example"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "content-type" in response.headers["access-control-allow-headers"].lower()
    await checked_headers(response)


async def test_a_refused_preflight_is_an_error_like_any_other(client: httpx.AsyncClient) -> None:
    """The preflight of another origin is refused with an ErrorResponse, and names no origin."""
    response = await client.options(PLAIN, headers=preflight("https://evil.example"))
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    assert set(response.json()) == {"error", "detail", "code"}


# --- sessions


async def test_what_is_known_about_a_session(client: httpx.AsyncClient, session_id: str) -> None:
    """Times are ISO 8601 in UTC; messages are counted, and shown when asked for."""
    before = datetime.now(UTC)
    await ask(client, "Hello", session_id)
    await ask(client, "Thanks", session_id)
    short = (await client.get(f"/api/v1/session/{session_id}")).json()
    long = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    created, active = (datetime.fromisoformat(short[at]) for at in ("created_at", "last_activity"))
    assert before <= created < active <= datetime.now(UTC)
    assert created.utcoffset() == active.utcoffset() == before.utcoffset()
    assert short["session_id"] == session_id
    assert short["message_count"] == len(long["messages"]) == 4
    assert short.get("messages") is None
    assert [message["role"] for message in long["messages"]] == ["user", "assistant"] * 2
    assert [message["content"] for message in long["messages"]][::2] == ["Hello", "Thanks"]


async def test_a_deleted_session_is_gone(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """DELETE says so; then the session is a 404 everywhere, and its id starts afresh."""
    await ask(client, "The word is swordfish", session_id)
    url = f"/api/v1/session/{session_id}"
    deleted = await client.delete(url)
    gone = [await client.get(url), await client.delete(url)]
    listed = (await client.get("/api/v1/sessions?limit=1000")).json()["sessions"]
    await ask(client, "Hello", session_id)
    assert deleted.status_code == 200
    assert deleted.json()["session_id"] == session_id
    assert set(deleted.json()) == {"message", "session_id"}
    assert [r.status_code for r in gone] == [404, 404]
    assert gone[0].json()["code"] == "session_not_found"
    assert session_id not in listed
    assert "swordfish" not in json.dumps(model.calls[-1].messages)


async def test_sessions_are_listed_newest_activity_first(
    client: httpx.AsyncClient, session_id: str
) -> None:
    """An older session that spoke again is first, before one that is newer but silent."""
    older, newer = f"{session_id}.1", f"{session_id}.2"
    for name in (older, newer, older):
        await ask(client, "Hello", name)
    page = (await client.get("/api/v1/sessions", params={"limit": 2})).json()
    assert page["sessions"] == [older, newer]
    assert page["count"] >= 2


async def test_pages_of_sessions_are_whole(client: httpx.AsyncClient, session_id: str) -> None:
    """Page after page, every session is seen once; `count` is of all; the last has no cursor."""
    names = [f"{session_id}.{n}" for n in range(7)]
    for name in names:
        await ask(client, "Hello", name)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        response = await client.get("/api/v1/sessions", params={"limit": 3, **cursor})
        page = response.json()
        assert len(page["sessions"]) <= 3
        seen += page["sessions"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen[:7] == names[::-1]
    assert len(seen) == len(set(seen)) == page["count"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=-1", "limit=ten", "limit=1.5", "limit=", "cursor=", "cursor=x",
     "cursor=-1", "cursor=" + "9" * 19, "cursor=%00", "cursor=%EF%BC%91", "limit=" + "9" * 5000,
     "cursor=1%0A"],
)  # fmt: skip
async def test_wrong_paging_is_refused(client: httpx.AsyncClient, query: str) -> None:
    """A limit outside 1 to 1000 or a cursor that is none is a 422."""
    response = await client.get(f"/api/v1/sessions?{query}")
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")


async def test_include_is_checked(client: httpx.AsyncClient, session_id: str) -> None:
    """`?include=` knows `messages` and nothing else, and does not repeat what was sent."""
    await ask(client, "Hello", session_id)
    response = await client.get(f"/api/v1/session/{session_id}?include=swordfish")
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    assert "swordfish" not in response.text


async def test_follow_ups_use_the_history(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """The next turn is sent the conversation so far, and only this session's."""
    await ask(client, "My name is Ada.", session_id)
    reply = await ask(client, "What is my name?", session_id, STREAM)
    assert "Ada" in reply.text
    assert [message["role"] for message in model.calls[-1].messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
