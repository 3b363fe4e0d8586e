"""The wire: OpenAI's shapes for answers and refusals, seen with a plain HTTP client and curl."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import httpx
import pytest

from shared.offline_model import OfflineModel, Scenario, ToolCall, Usage
from shared.offline_model.connection import MAX_BODY, HttpRequest, HttpResponse

COMPLETIONS = "/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # saves every client loading certificates


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def model() -> Iterator[OfflineModel]:
    with OfflineModel() as model:
        yield model


@pytest.fixture
def http(model: OfflineModel) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=model.base_url,
        headers={"Authorization": "Bearer any"},
        trust_env=False,
        verify=NO_TLS,
    ) as client:
        yield client


def request(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "offline-assistant", "messages": messages, **more}


def events(body: str) -> list[Any]:
    """The data of a stream's events, which end with [DONE]."""
    lines = body.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def refusal(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error, dict)
    return error


def test_plain_answer_has_text_reason_and_usage(model: OfflineModel, http: httpx.Client) -> None:
    """A plain call is answered whole, with usage, as the model that was asked for."""
    model.respond(Scenario("One two three."))
    answer = http.post(COMPLETIONS, json=request(model="gpt-4o-mini")).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "gpt-4o-mini"
    assert answer["choices"][0]["message"]["content"] == "One two three."
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def test_stream_begins_with_the_role_and_ends_with_a_reason(
    model: OfflineModel, http: httpx.Client
) -> None:
    """A stream is role, pieces, finish_reason, [DONE]; without being asked it has no usage."""
    model.respond(Scenario(pieces=["He", "llo"]))
    response = http.post(COMPLETIONS, json=request(stream=True))
    choices = [event["choices"][0] for event in events(response.text)]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "He"},
        {"content": "llo"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert "usage" not in response.text


def test_stream_usage_is_a_last_chunk_without_choices(
    model: OfflineModel, http: httpx.Client
) -> None:
    """With include_usage the last chunk has usage and no choices, the others `usage: null`."""
    model.respond(Scenario("Hi.", usage=Usage(7, 9)))
    body = request(stream=True, stream_options={"include_usage": True})
    *chunks, last = events(http.post(COMPLETIONS, json=body).text)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    assert all(chunk["usage"] is None for chunk in chunks)


def test_streamed_tool_call_names_the_tool_first(model: OfflineModel, http: httpx.Client) -> None:
    """A streamed tool call is its name and id, then its arguments in several pieces."""
    arguments = {"query": "a longer question, with some Ünicode 😀"}
    model.respond(Scenario(tool_calls=[ToolCall("look", arguments)], preamble="One moment."))
    chunks = events(http.post(COMPLETIONS, json=request(stream=True, tools=TOOLS)).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == "One moment."
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "look", "arguments": ""}
    assert len(calls) > 3
    assert not any("id" in call or "name" in call["function"] for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == arguments
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tool_call_ids_are_never_used_twice(model: OfflineModel, http: httpx.Client) -> None:
    """Two calls, also of two answers and after `clear`, have different ids."""
    scenario = Scenario(tool_calls=[ToolCall("look"), ToolCall("look")])
    ids = set()
    for _ in range(3):
        model.clear()
        model.respond(scenario)
        message = http.post(COMPLETIONS, json=request()).json()["choices"][0]["message"]
        ids |= {call["id"] for call in message["tool_calls"]}
    assert len(ids) == 6


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_token_limit_ends_with_length(model: OfflineModel, http: httpx.Client, limit: str) -> None:
    """An answer longer than the limit is cut there, and says so, plain and streamed."""
    model.respond(Scenario(pieces=["a", "b", "c"]))
    plain = http.post(COMPLETIONS, json=request(**{limit: 2})).json()["choices"][0]
    streamed = events(http.post(COMPLETIONS, json=request(stream=True, **{limit: 2})).text)
    enough = http.post(COMPLETIONS, json=request(**{limit: 3})).json()["choices"][0]
    assert (plain["message"]["content"], plain["finish_reason"]) == ("ab", "length")
    assert [c["choices"][0]["delta"].get("content") for c in streamed] == ["", "a", "b", None]
    assert streamed[-1]["choices"][0]["finish_reason"] == "length"
    assert (enough["message"]["content"], enough["finish_reason"]) == ("abc", "stop")


@pytest.mark.parametrize(
    "text",
    [
        "a\n\nb",
        "data: [DONE]\n\ndata: x",
        "😀 👩‍👩‍👧",
        "\u2028\u2029\x85",
        "e\u0301 \x00 \ufeff",
        "  \n ",
        '\\"{}',
    ],
)
def test_any_text_arrives_as_it_was_said(
    model: OfflineModel, http: httpx.Client, text: str
) -> None:
    """Pieces of any text concatenate exactly to it."""
    model.respond(Scenario(text))
    chunks = events(http.post(COMPLETIONS, json=request(stream=True)).text)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text
    assert http.post(COMPLETIONS, json=request()).json()["choices"][0]["message"]["content"] == text


async def test_each_piece_is_a_packet_of_its_own() -> None:
    """Between two chunks the event loop gets a turn, or it would send them in one write."""
    written: list[bytes] = []
    seen: list[int] = []
    transport = create_autospec(asyncio.Transport, instance=True)
    transport.write = written.append
    writable = asyncio.Event()
    writable.set()
    asked = HttpRequest("POST", "/", [], b"", too_large=False, keep_alive=True, http_1_0=False)
    response = HttpResponse(transport, writable, asked)

    async def watch() -> None:
        while len(written) < 5:
            seen.append(len(written))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    for _ in range(5):
        await response.chunk(b"x")
    await watching
    assert seen == [1, 2, 3, 4]


def test_models_are_listed(model: OfflineModel, http: httpx.Client) -> None:
    """GET /v1/models has every accepted name, and each can be asked for."""
    names = [card["id"] for card in http.get("/models").json()["data"]]
    assert "offline-assistant" in names
    assert all(http.get(f"/models/{name}").json()["id"] == name for name in names)
    assert refusal(http.get("/models/none"))["code"] == "model_not_found"


def test_the_set_of_models_is_a_parameter() -> None:
    """Only the names that it was started with are answered to."""
    with (
        OfflineModel(models=["mine"]) as model,
        httpx.Client(headers={"Authorization": "Bearer k"}, trust_env=False, verify=NO_TLS) as http,
    ):
        mine = http.post(model.base_url + COMPLETIONS, json=request(model="mine"))
        other = http.post(model.base_url + COMPLETIONS, json=request())
    assert mine.status_code == 200
    assert other.status_code == 404
    assert refusal(other)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Basic right", None),
        ("Bearer wrong", "invalid_api_key"),
    ],
)
def test_wrong_key_is_401(header: str | None, code: str | None) -> None:
    """A missing or wrong key is 401 everywhere, in OpenAI's shape."""
    with (
        OfflineModel(api_key="right") as model,
        httpx.Client(trust_env=False, verify=NO_TLS) as http,
    ):
        headers = {} if header is None else {"Authorization": header}
        refused = http.post(model.base_url + COMPLETIONS, json=request(), headers=headers)
        listed = http.get(f"{model.base_url}/models", headers=headers)
        right = {"Authorization": "bearer right"}
        accepted = http.post(model.base_url + COMPLETIONS, json=request(), headers=right)
    assert refused.status_code == listed.status_code == 401
    assert refusal(refused)["code"] == refusal(listed)["code"] == code
    assert accepted.status_code == 200


def test_without_a_key_of_its_own_any_key_will_do(model: OfflineModel) -> None:
    """Keyless means any text as a key, but not none at all."""
    with httpx.Client(trust_env=False, verify=NO_TLS) as http:
        url = model.base_url + COMPLETIONS
        assert http.post(url, json=request()).status_code == 401
        assert (
            http.post(url, json=request(), headers={"Authorization": "Bearer x"}).status_code == 200
        )


TURN = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]}
USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c1"}]},
            "messages[0].role",
        ),
        ({"messages": [USER, TURN]}, "messages"),
        ({"messages": [USER, TURN, USER]}, "messages"),
        ({"messages": [{**TURN, "tool_calls": ["c1"]}]}, "messages[0].tool_calls"),
        ({"messages": [{**TURN, "tool_calls": 3}]}, "messages[0].tool_calls"),
        ({"stream": "yes"}, "stream"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": 1, "stream": True}, "stream_options"),
        ({"tools": {}}, "tools"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tools": [{"function": {"name": 1}}]}, "tools[0]"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "some", "tools": TOOLS}, "tool_choice"),
        ({"tool_choice": {"function": {"name": "other"}}, "tools": TOOLS}, "tool_choice"),
    ],
)
def test_malformed_request_is_400(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    """A body of the wrong shape is 400 and names the parameter; tool turns must be whole."""
    response = http.post(COMPLETIONS, json={**request(), **change})
    assert response.status_code == 400
    assert refusal(response)["param"] == param
    assert refusal(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b'{"model": NaN}', b"\xff\xfe{", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_400(http: httpx.Client, body: bytes) -> None:
    """Whatever is not a JSON object is refused as such, however deep."""
    response = http.post(COMPLETIONS, content=body)
    assert response.status_code == 400
    assert "JSON" in refusal(response)["message"]


def test_lone_surrogates_come_back_as_they_came(http: httpx.Client) -> None:
    """A lone surrogate in a question breaks nothing."""
    message = '{"role": "user", "content": "My name is a\\ud800"}'
    raw = f'{{"model": "offline-assistant", "messages": [{message}]}}'
    assert http.post(COMPLETIONS, content=raw).status_code == 200


def test_unknown_path_and_wrong_method(http: httpx.Client) -> None:
    """Unknown paths are 404, wrong methods 405 with Allow, both in OpenAI's shape."""
    unknown = http.post("/completions", json=request())
    get = http.get(COMPLETIONS)
    delete = http.delete("/models")
    assert unknown.status_code == 404
    assert "/v1/completions" in refusal(unknown)["message"]
    assert (get.status_code, get.headers["allow"]) == (405, "POST")
    assert (delete.status_code, delete.headers["allow"]) == (405, "GET")
    assert http.head(COMPLETIONS).status_code == 405
    assert http.get("/models").status_code == 200  # the connection is still in step


def test_body_too_large_is_413(http: httpx.Client) -> None:
    """A body over the limit is 413, and the connection can be used again."""
    response = http.post(COMPLETIONS, content=b" " * (MAX_BODY + 1))
    assert response.status_code == 413
    assert refusal(response)["code"] == "request_too_large"
    assert http.post(COMPLETIONS, json=request()).status_code == 200


def test_what_is_not_http_is_refused(model: OfflineModel) -> None:
    """Bytes that are no HTTP get a 400 and a closed connection."""
    with socket.create_connection(("127.0.0.1", model.port)) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
        assert client.recv(100) == b""


def test_a_client_that_asks_first_is_told_to_go_on(model: OfflineModel) -> None:
    """`Expect: 100-continue` is answered before the body comes."""
    body = json.dumps(request()).encode()
    head = f"POST /v1{COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
    with socket.create_connection(("127.0.0.1", model.port)) as client:
        client.sendall(
            f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_pipelined_requests_are_answered_in_order(model: OfflineModel) -> None:
    """Two requests in one packet get two answers, the first one first."""
    model.enqueue(Scenario("first", first_token_delay=0.05), Scenario("second"))
    body = json.dumps(request()).encode()
    head = f"POST /v1{COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
    one = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", model.port)) as client:
        client.sendall(one + one)
        received = b""
        while received.count(b'"usage"') < 2:
            received += client.recv(65536)
    assert received.index(b"first") < received.index(b"second")


def test_http_1_0_streams_until_the_connection_closes(model: OfflineModel) -> None:
    """A client without chunked encoding gets the bare events."""
    model.respond(Scenario(pieces=["a", "b"]))
    body = json.dumps(request(stream=True)).encode()
    head = (
        f"POST /v1{COMPLETIONS} HTTP/1.0\r\nConnection: keep-alive\r\nAuthorization: Bearer k\r\n"
    )
    with socket.create_connection(("127.0.0.1", model.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        with client.makefile("rb") as stream:
            received = stream.read()
    assert len(events(received.partition(b"\r\n\r\n")[2].decode())) == 4


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_works(model: OfflineModel, tmp_path: Path) -> None:
    """curl gets a plain answer and a stream, also with a body so large that it asks first."""
    model.respond(Scenario("Hello from here."))
    large = tmp_path / "body.json"
    messages = [{"role": "user", "content": "x" * 2_000_000}]
    large.write_text(json.dumps(request(messages=messages)), encoding="utf-8")

    def curl(data: str) -> str:
        key = ["-H", "Authorization: Bearer any", "-H", "Content-Type: application/json"]
        url = model.base_url + COMPLETIONS
        command = ["curl", "-sSN", "--noproxy", "*", *key, "-d", data, url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    plain = json.loads(curl(f"@{large}"))
    chunks = events(curl(json.dumps(request(stream=True))))
    assert plain["choices"][0]["message"]["content"] == "Hello from here."
    assert len(chunks) == 5
