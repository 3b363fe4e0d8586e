"""Every scenario, by its effect on the wire."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.offline_model import Call, OfflineModel, Scenario, ToolCall

URL = "/chat/completions"
PIECES = ["one ", "two ", "three ", "four"]
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # saves every client loading certificates


@pytest.fixture
def model() -> Iterator[OfflineModel]:
    with OfflineModel() as model:
        yield model


@pytest.fixture
def http(model: OfflineModel) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer any"}
    with httpx.Client(
        base_url=model.base_url, headers=headers, trust_env=False, verify=NO_TLS
    ) as client:
        yield client


def request(stream: bool = False, text: str = "Hello") -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "offline-assistant", "messages": messages, "stream": stream}


def read_until_it_fails(
    http: httpx.Client, error: type[httpx.TransportError], timeout: float = 5
) -> bytes:
    """What arrives of a stream before reading it raises `error`."""
    received = b""
    with http.stream("POST", URL, json=request(stream=True), timeout=timeout) as response:
        try:
            for part in response.iter_raw():
                received += part
        except error:
            return received
    pytest.fail("the stream came to an end")


def said(http: httpx.Client, text: str = "Hello") -> str:
    answer = http.post(URL, json=request(text=text)).json()
    return str(answer["choices"][0]["message"]["content"])


def test_queued_scenarios_come_before_the_standing_one(
    model: OfflineModel, http: httpx.Client
) -> None:
    """`enqueue` is for one call each, then `respond` again; `respond(None)` is the assistant."""
    model.respond(Scenario("standing"))
    model.enqueue(Scenario("first"), Scenario("second"))
    assert [said(http) for _ in range(3)] == ["first", "second", "standing"]
    model.respond(None)
    assert "Ask me about" in said(http)


def test_a_callable_decides_per_call(model: OfflineModel, http: httpx.Client) -> None:
    """A callable sees the call; None leaves it to the assistant."""

    def shout(call: Call) -> Scenario | None:
        text = call.messages[-1]["content"]
        return Scenario(text.upper()) if text.endswith("!") else None

    model.respond(shout)
    assert said(http, "loud!") == "LOUD!"
    assert "Ask me about" in said(http, "Hello")


def test_a_callable_that_fails_is_a_500(model: OfflineModel, http: httpx.Client) -> None:
    """A mistake in a test's callable is told to the client, and stops nothing."""

    def broken(call: Call) -> Scenario:
        raise LookupError(f"call {call.number}")

    model.respond(broken)
    response = http.post(URL, json=request())
    assert response.status_code == 500
    assert "LookupError('call 1')" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_delays_are_waited_for(model: OfflineModel, http: httpx.Client, stream: bool) -> None:
    """The last piece comes after first_token_delay and its share of token_delay, not sooner."""
    model.respond(Scenario(pieces=PIECES, first_token_delay=0.1, token_delay=0.02))
    started = time.monotonic()
    with http.stream("POST", URL, json=request(stream)) as response:
        headers_after = time.monotonic() - started
        response.read()
    assert headers_after >= 0.099
    assert time.monotonic() - started >= 0.159  # 0.1 and three times 0.02, as uvloop rounds them
    call = model.calls[0]
    assert call.first_piece_at is not None
    assert call.first_piece_at - call.started_at >= 0.099


def test_the_assistant_can_be_slowed_down(model: OfflineModel, http: httpx.Client) -> None:
    """A scenario without words of its own is the assistant at another pace."""
    plain = said(http)
    model.respond(Scenario(first_token_delay=0.05))
    started = time.monotonic()
    assert said(http) == plain
    assert time.monotonic() - started >= 0.049


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("retry_after", [None, 7, "Wed, 21 Oct 2026 07:28:00 GMT", "soon"])
def test_status_with_retry_after(
    model: OfflineModel, http: httpx.Client, stream: bool, retry_after: int | str | None
) -> None:
    """An error status has OpenAI's body and the Retry-After that was asked for, as it is."""
    model.respond(Scenario(status=429, retry_after=retry_after))
    response = http.post(URL, json=request(stream))
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert response.headers.get("retry-after") == (str(retry_after) if retry_after else None)


@pytest.mark.parametrize("stream", [False, True])
def test_hang_says_nothing_at_all(model: OfflineModel, http: httpx.Client, stream: bool) -> None:
    """A hanging call has no status, and delays nobody else."""
    model.enqueue(Scenario(hang=True))
    model.respond(Scenario("quick"))
    with pytest.raises(httpx.ReadTimeout):
        http.post(URL, json=request(stream), timeout=0.1)
    assert said(http) == "quick"
    model.wait_for(lambda m: m.calls[0].outcome == "cancelled")
    assert model.calls[0].status is None


def test_hang_after_some_pieces(model: OfflineModel, http: httpx.Client) -> None:
    """The pieces before the silence arrive."""
    model.respond(Scenario(pieces=PIECES, hang_after=2))
    received = read_until_it_fails(http, httpx.ReadTimeout, timeout=0.3)
    assert received.count(b"data: ") == 3  # the role and two pieces
    assert model.calls[0].pieces_sent == 2


@pytest.mark.parametrize("stream", [False, True])
def test_drop_closes_without_a_byte(model: OfflineModel, http: httpx.Client, stream: bool) -> None:
    """A dropped connection is no answer at all."""
    model.respond(Scenario(drop=True))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        http.post(URL, json=request(stream))


@pytest.mark.parametrize("after", [0, 2, 99])
def test_cut_streams_have_no_end(model: OfflineModel, http: httpx.Client, after: int) -> None:
    """After n pieces the connection closes in the middle of the body."""
    model.respond(Scenario(pieces=PIECES, cut_after=after))
    received = read_until_it_fails(http, httpx.RemoteProtocolError)
    assert received.count(b"data: ") == 1 + min(after, len(PIECES))
    assert b'finish_reason":"' not in received


def test_cut_plain_answers_are_shorter_than_promised(
    model: OfflineModel, http: httpx.Client
) -> None:
    """Half of a plain answer comes, and then the end of the connection."""
    model.respond(Scenario("text", cut_after=0))
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        http.post(URL, json=request())


def test_end_early_is_clean(model: OfflineModel, http: httpx.Client) -> None:
    """The stream ends as HTTP should, without a finish_reason or [DONE]; so does a plain answer."""
    model.respond(Scenario(pieces=PIECES, end_early_after=2))
    streamed = http.post(URL, json=request(stream=True)).text
    choice = http.post(URL, json=request()).json()["choices"][0]
    assert streamed.count("data: ") == 3
    assert "[DONE]" not in streamed
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", None)


@pytest.mark.parametrize(
    "scenario", [Scenario(malformed=True), Scenario(pieces=PIECES, malformed_after=2)]
)
def test_malformed_json(model: OfflineModel, http: httpx.Client, scenario: Scenario) -> None:
    """A 200 that is no JSON; in a stream, a data line that is none."""
    model.respond(scenario)
    plain = http.post(URL, json=request())
    *good, broken = http.post(URL, json=request(stream=True)).text.strip().split("\n\n")
    assert plain.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        plain.json()
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.removeprefix("data: "))
    assert len(good) == 1 + (scenario.fault_after or 0)


@pytest.mark.parametrize("stream", [False, True])
def test_html_with_a_200(model: OfflineModel, http: httpx.Client, stream: bool) -> None:
    """A captive portal answers with a page."""
    model.respond(Scenario(html=True))
    response = http.post(URL, json=request(stream))
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<!DOCTYPE html>")


def test_empty_choices(model: OfflineModel, http: httpx.Client) -> None:
    """An answer without choices, plain and streamed."""
    model.respond(Scenario(empty_choices=True))
    streamed = http.post(URL, json=request(stream=True)).text
    assert http.post(URL, json=request()).json()["choices"] == []
    assert streamed.count('"choices":[]') == 1
    assert streamed.endswith("data: [DONE]\n\n")


def test_empty_text(model: OfflineModel, http: httpx.Client) -> None:
    """An answer that says nothing, and says that it is complete."""
    model.respond(Scenario(empty_text=True))
    choice = http.post(URL, json=request()).json()["choices"][0]
    streamed = http.post(URL, json=request(stream=True)).text
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert streamed.count("data: ") == 3  # role, reason, [DONE]


def test_error_in_a_stream(model: OfflineModel, http: httpx.Client) -> None:
    """After n pieces an error comes as data, and then a clean end."""
    model.respond(Scenario(pieces=PIECES, error_in_stream_after=1))
    *good, last = http.post(URL, json=request(stream=True)).text.strip().split("\n\n")
    plain = http.post(URL, json=request())
    assert len(good) == 2
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert plain.status_code == 200
    assert plain.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("size", [0, 1, 63, 64, 300_001])
def test_huge_answers_have_exactly_that_size(
    model: OfflineModel, http: httpx.Client, size: int
) -> None:
    """`huge` is a number of characters."""
    model.respond(Scenario(huge=size))
    assert len(said(http)) == size


def test_a_reader_that_stops_costs_bounded_memory(model: OfflineModel) -> None:
    """The server stops writing when nobody reads, and hears when the reader goes."""
    model.respond(Scenario(huge=50_000_000))
    with httpx.Client(trust_env=False, verify=NO_TLS) as http:
        url, key = model.base_url + URL, {"Authorization": "Bearer any"}
        with http.stream("POST", url, json=request(stream=True), headers=key):
            model.wait_for(lambda m: m.calls[0].pieces_sent > 100)
            before = -1
            while before != (before := model.calls[0].pieces_sent):
                threading.Event().wait(0.1)  # until it no longer grows
    model.wait_for(lambda m: m.calls[0].outcome == "cancelled")
    assert before < 100_000  # of 781,250 pieces


def test_a_tool_loop_never_ends(model: OfflineModel, http: httpx.Client) -> None:
    """A standing tool call is the answer to every call, whatever came back."""
    model.respond(Scenario(tool_calls=[ToolCall("look", {"query": "x"})]))
    body = request()
    for _ in range(5):
        message = http.post(URL, json=body).json()["choices"][0]["message"]
        result = {
            "role": "tool",
            "content": "found",
            "tool_call_id": message["tool_calls"][0]["id"],
        }
        body["messages"] += [message, result]
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"query": "x"}'}
    assert len(model.calls[-1].messages) == 9


@pytest.mark.parametrize("stream", [False, True])
def test_finish_reason_can_be_replaced(
    model: OfflineModel, http: httpx.Client, stream: bool
) -> None:
    """The reason is the scenario's, also for the assistant's words."""
    model.respond(Scenario(finish_reason="content_filter"))
    assert '"finish_reason":"content_filter"' in http.post(URL, json=request(stream)).text


def test_usage_can_be_left_out(model: OfflineModel, http: httpx.Client) -> None:
    """Some servers never report usage, asked or not."""
    model.respond(Scenario("Hi", usage=False))
    body = {**request(stream=True), "stream_options": {"include_usage": True}}
    assert "usage" not in http.post(URL, json=request()).json()
    assert "total_tokens" not in http.post(URL, json=body).text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "a", "huge": 3}, "one answer, not text and huge"),
        ({"pieces": ["a"], "tool_calls": [ToolCall("x")]}, "one answer"),
        ({"status": 500, "hang": True}, "one fault, not status and hang"),
        ({"cut_after": 0, "html": True}, "one fault"),
        ({"status": 200}, "400 to 599"),
        ({"retry_after": 3}, "needs a status"),
        ({"preamble": "x"}, "use text"),
    ],
)
def test_scenarios_that_contradict_themselves_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    """A scenario has one answer and one fault at most; the mistake is told where it is made."""
    with pytest.raises(ValueError, match=message):
        Scenario(**fields)
