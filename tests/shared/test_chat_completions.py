"""The client under ChatOpenAI reads the protocol strictly, and says by name what went wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from shared.chat_completions import ChatCompletions, is_local, refuse, seconds
from shared.errors import ModelError, ModelUnavailable
from shared.offline_model import OfflineModel, Scenario

CONTENT = b'{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}'
LAST = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


@asynccontextmanager
async def server_of(body: bytes) -> AsyncIterator[ChatCompletions]:
    """A client of a server that answers every request with this body, then hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    async with server, ChatCompletions(base_url=url, api_key="any") as completions:
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
        b"data: " + b"x" * 1_000_000 + b"\n\n",
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
    ("url", "local"),
    [
        ("http://127.0.0.1:8001/v1", True),
        ("http://[::1]:8001/v1", True),
        ("http://localhost/v1", True),
        ("https://api.example.com/v1", False),
        ("http://192.0.2.7/v1", False),
    ],
)
def test_loopback_needs_no_proxy(url: str, local: bool) -> None:
    """A proxy from the environment is for other machines than this one."""
    assert is_local(url) is local
