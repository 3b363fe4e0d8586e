"""The record of calls, cancellation as the server sees it, and starting and stopping."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import httpx
import pytest

from shared.offline_model import OfflineModel, Scenario
from shared.offline_model.answers import say
from shared.offline_model.chat_request import read_chat_request
from shared.offline_model.connection import HttpResponse
from shared.offline_model.delivery import Delivery
from shared.offline_model.recorder import Recorder

URL = "/chat/completions"
KEY = {"Authorization": "Bearer any"}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # saves every client loading certificates


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def streaming(model: OfflineModel) -> Iterator[httpx.Response]:
    """A stream of the model, read as far as the test wants."""
    with (
        httpx.Client(base_url=model.base_url, headers=KEY, trust_env=False, verify=NO_TLS) as http,
        http.stream("POST", URL, json=request(stream=True)) as response,
    ):
        yield response


@pytest.fixture
def model() -> Iterator[OfflineModel]:
    with OfflineModel() as model:
        yield model


def request(stream: bool = False, text: str = "Hello") -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "offline-assistant", "messages": messages, "stream": stream}


def post(model: OfflineModel, **more: Any) -> httpx.Response:
    with httpx.Client(base_url=model.base_url, headers=KEY, trust_env=False, verify=NO_TLS) as http:
        return http.post(URL, json=request(**more))


def test_a_call_is_recorded_with_what_was_sent(model: OfflineModel) -> None:
    """Messages, model, stream, headers, times, pieces and outcome are there when the answer is."""
    model.respond(Scenario(pieces=["a", "b"]))
    post(model, stream=True)
    (call,) = model.calls
    assert call.messages == [{"role": "user", "content": "Hello"}]
    assert (call.model, call.stream, call.tools) == ("offline-assistant", True, [])
    assert call.headers["authorization"] == "Bearer any"
    assert (call.status, call.pieces_sent, call.outcome) == (200, 2, "completed")
    assert call.first_piece_at is not None
    assert call.ended_at is not None
    assert call.started_at <= call.first_piece_at <= call.ended_at


@pytest.mark.parametrize("stream", [False, True])
async def test_the_record_is_ahead_of_the_wire(stream: bool) -> None:
    """Whoever has a piece finds it counted, and whoever has the end finds the call completed."""
    recorder = Recorder()
    call = recorder.begin(request(stream), [])
    at_each_chunk: list[int] = []
    at_the_end: list[str] = []
    response = create_autospec(HttpResponse, instance=True)
    response.chunk.side_effect = lambda _: at_each_chunk.append(call.pieces_sent)
    response.finish.side_effect = response.send.side_effect = lambda *_: at_the_end.append(
        call.outcome
    )
    chat = read_chat_request(call.body)
    await Delivery(chat, Scenario(), say("a b c"), call, recorder, "1").send(response)
    assert at_the_end == ["completed"]
    assert at_each_chunk == ([0, 1, 2, 3, 3] if stream else [])  # role, pieces, reason


def test_refused_calls_are_recorded(model: OfflineModel) -> None:
    """Calls without a key, with a bad body or a status fault are faulted, with their status."""
    with httpx.Client(base_url=model.base_url, trust_env=False, verify=NO_TLS) as http:
        http.post(URL, json=request())
        http.post(URL, content=b"{", headers=KEY)
        model.enqueue(Scenario(status=503))
        http.post(URL, json=request(), headers=KEY)
        http.get(URL)  # no call of the model
    assert [(call.status, call.outcome) for call in model.calls] == [
        (401, "faulted"),
        (400, "faulted"),
        (503, "faulted"),
    ]


def test_a_refused_call_uses_no_scenario(model: OfflineModel) -> None:
    """What was enqueued waits for a call that is let in."""
    model.enqueue(Scenario("for a good call"))
    with httpx.Client(base_url=model.base_url, trust_env=False, verify=NO_TLS) as http:
        assert http.post(URL, json=request()).status_code == 401
    assert "for a good call" in post(model).text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(hang=True),
        Scenario(hang_after=0),
        Scenario("a b c", first_token_delay=60),
        Scenario("a b c", token_delay=60),
        Scenario(status=500, first_token_delay=60),
    ],
    ids=["hang", "hang_after", "first_token_delay", "token_delay", "status"],
)
async def test_a_client_that_goes_is_noticed_at_once(
    model: OfflineModel, scenario: Scenario, stream: bool
) -> None:
    """Wherever the server waits, it knows at once that its client has gone."""
    model.respond(scenario)
    async with httpx.AsyncClient(
        base_url=model.base_url, headers=KEY, trust_env=False, verify=NO_TLS
    ) as http:
        call = asyncio.create_task(http.post(URL, json=request(stream), timeout=60))
        await model.wait_for_async(lambda m: m.call_count == 1)
        left_at = time.monotonic()
        call.cancel()
        await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled")
    ended_at = model.calls[0].ended_at
    assert ended_at is not None
    assert ended_at - left_at < 0.5  # a few milliseconds, on a machine with nothing else to do


def test_a_client_that_goes_in_a_fast_stream_is_noticed(model: OfflineModel) -> None:
    """Without a pause between the tokens, the rest of them is not sent either."""
    model.respond(Scenario(pieces=["word "] * 1_000_000))
    with streaming(model) as response:
        assert response.status_code == 200
    model.wait_for(lambda m: m.calls[0].outcome == "cancelled")
    assert model.calls[0].pieces_sent < 1_000_000


def test_wait_for_wakes_on_every_piece(model: OfflineModel) -> None:
    """A test can wait until so many pieces are out, while the stream goes on."""
    model.respond(Scenario(pieces=["x"] * 3, token_delay=0.05, hang_after=3))
    with streaming(model):
        started = time.monotonic()
        model.wait_for(lambda m: m.calls[0].pieces_sent == 3, timeout=30)
        assert time.monotonic() - started < 10  # woken, and not at the end of its patience
        assert model.calls[0].outcome == "open"


def test_wait_for_that_fails_lists_the_calls(model: OfflineModel) -> None:
    """The error says how long was waited and what was seen instead."""
    with pytest.raises(TimeoutError, match=r"within 0\.01 s.*none"):
        model.wait_for(lambda m: False, timeout=0.01)
    post(model)
    with pytest.raises(TimeoutError, match="outcome='completed'"):
        model.wait_for(lambda m: m.call_count == 2, timeout=0.01)


def test_the_record_is_bounded_and_the_count_exact() -> None:
    """Of many calls the last are kept, and all are counted."""
    recorder = Recorder(keep=3)
    for number in range(10):
        recorder.begin({"number": number}, [])
    assert [call.body["number"] for call in recorder.calls] == [7, 8, 9]
    assert recorder.count == 10


def test_keep_false_counts_only() -> None:
    """In a benchmark nothing is kept."""
    with OfflineModel(keep=False) as model:
        post(model)
        post(model)
        assert (model.calls, model.call_count) == ([], 2)


def test_clear_forgets_calls_and_behaviour(model: OfflineModel) -> None:
    """After `clear` the model is as new."""
    model.respond(Scenario("standing"))
    model.enqueue(Scenario("queued"))
    post(model)
    model.clear()
    assert (model.calls, model.call_count) == ([], 0)
    assert "Ask me about" in post(model).text


def test_many_threads_at_once(model: OfflineModel) -> None:
    """Calls from many threads are all recorded, each with its own words."""
    model.respond(lambda call: Scenario(f"<{call.messages[0]['content']}>"))

    with httpx.Client(base_url=model.base_url, headers=KEY, trust_env=False, verify=NO_TLS) as http:

        def ask(number: int) -> str:
            answer = http.post(URL, json=request(text=str(number))).json()
            return str(answer["choices"][0]["message"]["content"])

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(200)))
    assert answers == [f"<{number}>" for number in range(200)]
    assert model.call_count == 200
    assert {call.outcome for call in model.calls} == {"completed"}


def test_models_do_not_know_of_each_other() -> None:
    """Several at once in one process have their own ports, behaviour and records."""
    with OfflineModel() as one, OfflineModel() as two:
        one.respond(Scenario("one"))
        two.respond(Scenario("two"))
        assert "one" in post(one).text
        assert "two" in post(two).text
        assert one.port != two.port
        assert (one.call_count, two.call_count) == (1, 1)


def test_it_can_go_away_and_come_back(model: OfflineModel) -> None:
    """Stopped, it refuses connections; started again, it is at the same address."""
    address = model.base_url
    post(model)
    model.stop()
    with pytest.raises(httpx.ConnectError):
        post(model)
    model.start()
    assert model.base_url == address
    assert post(model).status_code == 200
    assert model.call_count == 2


def test_stopping_cuts_open_streams_at_once(model: OfflineModel) -> None:
    """`stop` waits for nobody; a call that it cuts is the server's fault, not the client's."""
    model.respond(Scenario("a b c", hang_after=1))
    with streaming(model) as response:
        model.wait_for(lambda m: m.calls[0].pieces_sent == 1)
        started = time.monotonic()
        model.stop()
        assert time.monotonic() - started < 0.5
        with pytest.raises(httpx.TransportError):
            response.read()
    assert model.calls[0].outcome == "faulted"


def test_it_starts_and_stops_quickly_and_cleanly() -> None:
    """Start and stop take a fraction of a second, and leave no thread behind."""
    before = threading.active_count()
    started = time.monotonic()
    for _ in range(20):
        with OfflineModel() as model:
            assert post(model).status_code == 200
    assert (time.monotonic() - started) / 20 < 0.3
    assert threading.active_count() == before


def test_misuse_is_told(model: OfflineModel) -> None:
    """Starting twice is an error, stopping twice is not; a port that is taken is an OSError."""
    with pytest.raises(RuntimeError, match="running already"):
        model.start()
    with pytest.raises(OSError, match="in use"):
        OfflineModel(port=model.port).start()
    with pytest.raises(OSError, match="before it is started"):
        _ = OfflineModel().base_url
    model.stop()
    model.stop()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """A socket file that nobody listens on is left over; one that answers belongs to somebody."""
    path = tmp_path / "model.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with OfflineModel(uds=path):
        with pytest.raises(OSError, match="in use"):
            OfflineModel(uds=path).start()
        assert path.is_socket()
    assert not path.exists()
    path.write_text("a file", encoding="utf-8")
    with pytest.raises(OSError, match="in use"):
        OfflineModel(uds=path).start()
    assert path.read_text(encoding="utf-8") == "a file"
