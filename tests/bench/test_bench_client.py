"""The load driver's client, and what the load accepts as an answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress

import pytest

from bench.client import Connection, RequestFailed
from bench.load import ask, listen, listen_to_model
from bench.model import Script

SAYS = Script(count=2)
ONE, TWO = SAYS.pieces
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def plain(status: int, body: object) -> list[bytes]:
    content = json.dumps(body).encode()
    return [f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode(), content]


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(text: str, done: bool = False, **metadata: object) -> bytes:
    body = {"chunk": text, "done": done, "metadata": metadata}
    return f"data: {json.dumps(body)}\n\n".encode()


def stream(*parts: bytes) -> list[bytes]:
    return [CHUNKED, *map(chunk, parts), b"0\r\n\r\n"]


@asynccontextmanager
async def answering(*answers: Sequence[bytes]) -> AsyncIterator[Connection]:
    """A connection to a server that gives these answers, one a request, then hangs up."""
    left = iter(answers)
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with closing(writer), suppress(asyncio.IncompleteReadError):
            while parts := next(left, None):
                await read_request(reader)
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0.01)

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with Connection(f"http://127.0.0.1:{port}") as connection:
            yield connection
        await asyncio.gather(*filter(None, serving))


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.splitlines() if line.startswith(b"content-length"))
    await reader.readexactly(int(length.split()[1]))


async def test_events_are_found_wherever_chunks_break() -> None:
    """Half an event, a comment, an event with no text and two in one chunk: all as they were."""
    first = event(ONE)
    end = event(TWO) + event("", done=True)
    async with answering(stream(first[:9], first[9:], b": still here\n\n", event(""), end)) as c:
        heard = await listen(c, SAYS)
    assert [arrival.text for arrival in heard.arrivals] == [ONE, TWO]
    assert heard.arrivals[1].at - heard.arrivals[0].at > 0.005
    assert heard.first_after > 0.005


async def test_the_models_own_stream_is_read_too() -> None:
    """Role, text, finish, usage and [DONE]: the text counts."""
    deltas = [[{"delta": {"role": "assistant"}}], [{"delta": {"content": SAYS.text}}], []]
    events = [f"data: {json.dumps({'choices': choices})}\n\n".encode() for choices in deltas]
    async with answering(stream(*events, b"data: [DONE]\n\n")) as connection:
        heard = await listen_to_model(connection, SAYS)
    assert [arrival.text for arrival in heard.arrivals] == [SAYS.text]


async def test_a_connection_is_kept() -> None:
    """The second turn goes over the connection of the first, and names its session."""
    answer = plain(200, {"response": SAYS.text, "session_id": "s1"})
    async with answering(answer, answer) as connection:
        assert await ask(connection, SAYS) == await ask(connection, SAYS, "s1") == "s1"


async def test_a_refusal_is_quoted() -> None:
    """The status and the body of what came instead are in the report."""
    async with answering(plain(503, {"error": "busy"})) as connection:
        with pytest.raises(RequestFailed, match=r"503.*busy"):
            await ask(connection, SAYS)


async def test_the_next_request_after_a_failure_starts_afresh() -> None:
    """What is left of a broken answer is never taken for the beginning of the next."""
    good = plain(200, {"response": SAYS.text, "session_id": "s1"})
    async with answering([CHUNKED, b"nonsense\r\n" * 3], good) as connection:
        with pytest.raises(RequestFailed):
            await ask(connection, SAYS)
        assert await ask(connection, SAYS) == "s1"


@pytest.mark.parametrize(
    "answer",
    [
        stream(event(ONE), event("", done=True)),
        stream(event(TWO), event(ONE), event("", done=True)),
        stream(event(SAYS.text)),
        stream(event(SAYS.text), event("", done=True), event("", done=True)),
        stream(event(SAYS.text), event("", done=True, error={"code": "model_error"})),
        stream(),
        [CHUNKED, chunk(event(SAYS.text)), chunk(event("", done=True))],
        stream(b"data: nonsense\n\n"),
        plain(500, {}),
        plain(200, {}),
    ],
    ids=[
        *("short", "out of order", "no end", "two ends", "an error at the end", "empty", "cut"),
        *("no JSON", "status", "no stream"),
    ],
)
async def test_a_stream_that_is_not_the_models_answer_has_failed(answer: list[bytes]) -> None:
    """Speed counts only for whole and correct answers."""
    async with answering(answer) as connection:
        with pytest.raises(RequestFailed):
            await listen(connection, SAYS)


async def test_a_plain_answer_that_is_not_the_models_has_failed() -> None:
    """Nor does a 200 with other words count."""
    async with answering(plain(200, {"response": "Hm.", "session_id": "s"})) as connection:
        with pytest.raises(RequestFailed, match=r"Hm\."):
            await ask(connection, SAYS)
