"""The client under ChatOpenAI reads the protocol strictly, and says by name what went wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from copy import copy
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import MethodType
from typing import Any

import pytest

from shared import chat_completions
from shared.chat_completions import (
    LARGEST_ANSWER,
    LINGER,
    ChatCompletions,
    proxy_for,
    refuse,
    seconds,
)
from shared.errors import ConfigurationError, ModelError, ModelUnavailable
from shared.llm import open_llm
from shared.offline_model import OfflineModel, Scenario

CONTENT = b'{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}'
NULLS = b'{"choices":[{"delta":null,"finish_reason":"stop"}],"error":null}'
LAST = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[ChatCompletions]:
    """A client of a server that does this with every connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            await answer(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, ChatCompletions(base_url=url, api_key="any") as completions:
        yield completions


@asynccontextmanager
async def server_of(body: bytes) -> AsyncIterator[ChatCompletions]:
    """A client of a server that answers every request with this body, then hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body)
        await writer.drain()

    async with serving(answer) as completions:
        yield completions


async def events(completions: ChatCompletions) -> list[dict[str, Any]]:
    async with await completions.create(model="m", messages=[], stream=True) as stream:
        return [event async for event in stream]


@pytest.mark.parametrize(
    "body",
    [
        b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\n",
        b"data:%b\n\ndata:%b\n\ndata:[DONE]\n\n",
        b"data: %b\r\n\r\ndata: %b\r\n\r\ndata: [DONE]\r\n\r\n",
        b": a comment\n\nevent: message\nid: 1\ndata: %b\n\nretry: 10\ndata: %b\n\n",
    ],
    ids=["usual", "no space", "CRLF", "comments and fields, no [DONE]"],
)
async def test_every_way_to_write_a_stream(body: bytes) -> None:
    """Servers differ in how they write server-sent events; all of it is read."""
    async with server_of(body % (CONTENT, LAST)) as completions:
        assert len(await events(completions)) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: [DONE]\n\n",
        b"data: " + CONTENT + b"\n\ndata: [DONE]\n\n",
        b"data: " + CONTENT + b"\n\ndata: {not json\n\n",
        b"data: " + LAST[:-5],
        b"data: []\n\n",
        b'data: {"error": {"message": "a secret of theirs"}}\n\n',
        b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n',
        b'data: {"choices": [7]}\n\n',
        b'data: {"choices": 7}\n\n',
        b"data: " + b"x" * 2 * LARGEST_ANSWER + b"\n\n",
        b"<html>Log in to our hotel's network</html>",
    ],
    ids=range(12),
)
async def test_a_stream_that_is_not_whole_is_an_error(body: bytes) -> None:
    """A stream that is cut, broken or something else is never taken for an answer."""
    async with server_of(body) as completions:
        with pytest.raises(ModelError) as raised:
            await events(completions)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": null}', b"null"]
)
async def test_a_whole_answer_that_is_none_is_an_error(body: bytes) -> None:
    """An answer in one piece has a choice, or it is no answer."""
    async with server_of(body) as completions:
        with pytest.raises(ModelError):
            await completions.with_raw_response.create(model="m", messages=[])


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7),
        ("0", 1),
        ("-3", 1),
        ("1.2", 2),
        ("999999999", 3600),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_whole_seconds(header: str | None, wait: int | None) -> None:
    """A Retry-After is passed on in whole seconds, at least one, at most an hour."""
    assert seconds(header) == wait


def test_retry_after_as_a_date() -> None:
    """A Retry-After may be a date (RFC 9110, 10.2.3)."""
    wait = seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert wait is not None
    assert 85 <= wait <= 90


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_busy_model(status: int) -> None:
    """A busy model may be asked again at once only if it did not say when to come back."""
    with pytest.raises(ModelUnavailable) as silent:
        refuse(status, None)
    with pytest.raises(ModelUnavailable) as outspoken:
        refuse(status, "9")
    assert silent.value.transient
    assert silent.value.retry_after
    assert not outspoken.value.transient
    assert outspoken.value.retry_after == 9


@pytest.mark.parametrize(
    ("status", "transient"), [(301, False), (400, False), (401, False), (404, False), (500, True)]
)
def test_any_other_refusal(status: int, transient: bool) -> None:
    """Only a fault of the server's own may pass by itself."""
    with pytest.raises(ModelError) as raised:
        refuse(status, None)
    assert raised.value.transient is transient


async def test_nobody_there() -> None:
    """A model that cannot be reached is unavailable, not wrong."""
    with OfflineModel() as model:
        url = model.base_url
    async with ChatCompletions(base_url=url, api_key="any") as completions:
        with pytest.raises(ModelUnavailable):
            await events(completions)


async def test_leaving_a_stream_stops_the_model() -> None:
    """A stream that is left early hangs up."""
    with OfflineModel() as model:
        model.respond(Scenario(pieces=["one", "two", "three"], token_delay=0.05, hang_after=3))
        async with ChatCompletions(base_url=model.base_url, api_key="any") as completions:
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "?"}]}
            async with await completions.create(stream=True, **body) as stream:
                async for event in stream:
                    if event["choices"][0]["delta"].get("content") == "one":
                        break
            await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1)


@pytest.mark.parametrize(
    "body",
    [
        b"data: %b\n\ndata: %b\n\n",
        b"data: %b\n\ndata: " + NULLS + b"\n\n%.0b",
    ],
    ids=["no [DONE]", "nulls"],
)
async def test_a_server_that_holds_the_line(body: bytes) -> None:
    """Once the answer is whole, nobody waits long for a server that does not hang up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body % (CONTENT, LAST))
        await reader.read()  # until the client hangs up

    async with serving(answer) as completions:
        assert len(await asyncio.wait_for(events(completions), LINGER * 4)) == 2


async def test_a_connection_is_used_again() -> None:
    """A stream that was read to its end leaves its connection to the next call."""
    opened = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while await reader.readuntil(b"\r\n\r\n{"):
            await reader.readuntil(b"}")
            body = b"data: %b\n\ndata: [DONE]\n\n" % LAST
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"%x\r\n%b\r\n" % (len(body), body))
            await asyncio.sleep(0.01)  # the last chunk of a stream often comes by itself
            writer.write(b"0\r\n\r\n")

    async with serving(answer) as completions:
        for _ in range(5):
            await events(completions)
    assert opened == 1


async def test_leftovers_reach_nobody_else() -> None:
    """A connection on which something came unasked is not used for the next question."""
    late = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{")
        await reader.readuntil(b"}")
        for text in (b"mine", b"somebody else's"):
            body = b'{"choices":[{"message":{"content":"%b"}}]}' % text
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            await late.wait()
        await reader.read()

    async with serving(answer) as completions:
        for _ in range(3):
            whole = await completions.with_raw_response.create(model="m", messages=[])
            assert whole.parse()["choices"][0]["message"]["content"] == "mine"
            late.set()
            await asyncio.sleep(0.05)  # time for what nobody has asked for to arrive


@pytest.mark.parametrize("ending", [b"", b"d\r\ndata: [DONE]\n\r\n", b"2\r\n: \r\n"])
async def test_hanging_up_after_the_last_word_harms_nothing(ending: bytes) -> None:
    """An answer that is whole is an answer, however its server leaves."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"data: %b\n\ndata: %b\n\n" % (CONTENT, LAST)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(body), body) + ending)
        await writer.drain()

    async with serving(answer) as completions:
        assert len(await events(completions)) == 2


async def test_comments_do_not_make_an_answer_longer() -> None:
    """A server that goes on with comments after the last word is left all the same."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: %b\n\n" % LAST)
        while True:
            writer.write(b": still here\n\n")
            await writer.drain()
            await asyncio.sleep(LINGER / 5)

    async with serving(answer) as completions:
        assert len(await asyncio.wait_for(events(completions), LINGER * 4)) == 1


@pytest.mark.parametrize(("key", "fine"), [("sk-x\n", True), ("sk x", False), ("", False)])
def test_a_key_is_one_word(key: str, fine: bool) -> None:
    """White space around a key is not part of it; inside, it cannot be a key."""
    with nullcontext() if fine else pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        ChatCompletions(base_url=None, api_key=key)


async def test_lines_without_end_hold_up_nobody() -> None:
    """However fast a server sends nothing, others get their turn, and a deadline holds."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b": x\n" * 100_000)
            await writer.drain()

    async with serving(answer) as completions:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await events(completions)


@pytest.mark.parametrize(
    "base_url",
    [
        "127.0.0.1:9999/v1",
        "http://[::1",
        "http://user:secret@127.0.0.1/v1",
        "https://example.com/v1?version=1",
        "ftp://example.com",
        "http://",
    ],
)
def test_an_address_of_another_form(base_url: str) -> None:
    """A base URL that cannot work is refused at the start, in a sentence without it."""
    with pytest.raises(ConfigurationError, match="OPENAI_BASE_URL") as refused:
        ChatCompletions(base_url=base_url, api_key="any")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://127.0.0.1:8001/v1", None),
        ("http://[::1]:8001/v1", None),
        ("http://localhost/v1", None),
        ("http://model.example.com/v1", None),
        ("http://api.example.com/v1", "http://proxy.example.com:3128"),
        ("http://192.0.2.7/v1", "http://proxy.example.com:3128"),
    ],
)
def test_a_proxy_is_for_other_machines(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None
) -> None:
    """The environment's proxy is used, but not for this machine and not where it says so."""
    monkeypatch.setenv("http_proxy", "http://proxy.example.com:3128")
    monkeypatch.setenv("no_proxy", "model.example.com")
    assert proxy_for(url) == proxy


async def test_a_call_may_wait_for_its_place_longer_than_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only connecting has its own short deadline: a place among `at_once` calls is the turn's."""
    monkeypatch.setattr(chat_completions, "CONNECT_TIMEOUT", 0.1)
    with OfflineModel() as model:
        model.respond(Scenario("Hello.", first_token_delay=0.3))
        async with ChatCompletions(base_url=model.base_url, api_key="any", at_once=1) as wire:
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
            await asyncio.gather(*(wire.with_raw_response.create(**body) for _ in range(2)))
            assert await wire.reachable()
        assert [call.outcome for call in model.calls] == ["completed"] * 2


async def test_langchains_blocking_client_is_made_when_it_is_needed() -> None:
    """It reads the system's certificates, which a start should not wait for."""
    async with open_llm(model="m", base_url="http://127.0.0.1:9/v1") as llm:
        copied = copy(llm.client)
        assert not made(llm.client)
        assert isinstance(llm.client.create, MethodType)
        assert made(llm.client)
        assert not made(copied)


def made(client: object) -> bool:
    return "_completions" in vars(client)
