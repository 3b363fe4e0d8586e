"""Clients that leave, and clients that stay and do not read: the model stops, nobody else waits."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from shared.offline_model import Call, OfflineModel, Scenario
from shared.web.streaming import PING, EventStream
from tests.medium.conftest import Serve
from tests.serving import Service
from tests.talking import EITHER_WAY, PLAIN, STREAM, ask, event_data, question_bytes

MEGABYTE = 1024 * 1024


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


WAYS_TO_LEAVE = pytest.mark.parametrize("leave", [close, reset, half_close])


async def next_turn_works(client: httpx.AsyncClient, model: OfflineModel, session_id: str) -> None:
    model.respond(Scenario("All is well."))
    reply = await ask(client, "next", session_id)
    session = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    assert (reply.status, reply.text) == (200, "All is well.")
    assert [message["content"] for message in session["messages"]] == ["next", "All is well."]


@EITHER_WAY
@WAYS_TO_LEAVE
async def test_the_model_stops_when_its_client_leaves(
    service: Service,
    client: httpx.AsyncClient,
    model: OfflineModel,
    session_id: str,
    path: str,
    leave: Callable[[socket.socket], None],
) -> None:
    """A client gone before the first token: the model's call is cancelled within a second."""
    model.respond(Scenario(hang=True))
    with service.connect() as connection:
        connection.sendall(question_bytes("hello", session_id, path))
        await model.wait_for_async(lambda m: m.call_count == 1)
        leave(connection)
        await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1.0)
    await next_turn_works(client, model, session_id)


@WAYS_TO_LEAVE
async def test_the_model_stops_in_mid_stream(
    service: Service,
    client: httpx.AsyncClient,
    model: OfflineModel,
    session_id: str,
    leave: Callable[[socket.socket], None],
) -> None:
    """A client gone after some tokens: the call is cancelled within a second, the turn undone."""
    model.respond(Scenario(huge=90_000, token_delay=0.02))
    with service.connect() as connection:
        connection.sendall(question_bytes("hello", session_id, STREAM))
        received = b""
        while received.count(b"data:") < 3:
            received += await asyncio.to_thread(connection.recv, 4096)
        leave(connection)
        await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1.0)
    await next_turn_works(client, model, session_id)


@EITHER_WAY
async def test_the_model_stops_behind_a_specialist(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str
) -> None:
    """Both specialists' calls, made side by side, are cancelled when the client leaves."""

    def hang_for_specialists(call: Call) -> Scenario | None:
        return None if "ask_analyst" in call.tool_names else Scenario(hang=True)

    model.respond(hang_for_specialists)
    question = "How do I stream tokens with FastAPI? And what is 17.5% of 2480, minus 12?"
    asking = asyncio.create_task(ask(client, question, session_id, path))
    await model.wait_for_async(lambda m: m.call_count == 3)
    asking.cancel()
    await model.wait_for_async(
        lambda m: [call.outcome for call in m.calls[1:]] == ["cancelled"] * 2, 1.0
    )
    await next_turn_works(client, model, session_id)


@EITHER_WAY
async def test_no_retry_for_a_client_that_left(
    service: Service, client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str
) -> None:
    """A client that leaves between two attempts: the next attempt is never made."""
    model.enqueue(Scenario(status=500), Scenario(status=500))
    with service.connect() as connection:
        connection.sendall(question_bytes("hello", session_id, path))
        await model.wait_for_async(lambda m: m.call_count == 2 and m.calls[1].outcome != "open")
    await next_turn_works(
        client, model, session_id
    )  # waits for the turn before it, if there is one
    assert model.call_count == 3


@EITHER_WAY
async def test_a_waiter_that_leaves_gives_up_its_place(
    service: Service, client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str
) -> None:
    """A queued turn whose client left is never asked; the one after it runs."""
    model.enqueue(Scenario(hang=True))
    model.respond(Scenario("Good."))
    with service.connect() as holder, service.connect() as waiter:
        holder.sendall(question_bytes("holder", session_id))
        await model.wait_for_async(lambda m: m.call_count == 1)
        at = await activity(client, session_id)
        waiter.sendall(question_bytes("waiter", session_id, path))
        at = await activity(client, session_id, other_than=at)
        after = asyncio.create_task(ask(client, "after", session_id, path))
        await activity(client, session_id, other_than=at)
        waiter.close()
        await client.get("/health")
        holder.close()
        reply = await asyncio.wait_for(after, 5)
    assert (reply.status, reply.text) == (200, "Good.")
    asked = [call.messages[-1]["content"] for call in model.calls]
    assert asked == ["holder", "after"]


async def activity(client: httpx.AsyncClient, session_id: str, other_than: str = "") -> str:
    """The session's last activity, once it is another: a turn has been accepted."""
    while True:
        response = await client.get(f"/api/v1/session/{session_id}")
        if (at := str(response.json().get("last_activity", other_than))) != other_than:
            return at


async def test_a_client_that_leaves_early_makes_no_session(
    service: Service, client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A turn without a session id that nobody learns of leaves no session behind."""
    before = (await client.get("/api/v1/sessions")).json()["count"]
    model.respond(Scenario(hang=True))
    for path in (PLAIN, STREAM):
        with service.connect() as connection:
            connection.sendall(question_bytes("hello", None, path))
            calls = model.call_count
            await model.wait_for_async(lambda m, calls=calls: m.call_count > calls)  # type: ignore[misc]
    await model.wait_for_async(lambda m: {call.outcome for call in m.calls} == {"cancelled"}, 1.0)
    async with asyncio.timeout(5):
        while (await client.get("/api/v1/sessions")).json()["count"] != before:
            pass


async def test_a_connection_is_used_again_after_a_stream(
    service: Service, model: OfflineModel
) -> None:
    """A second question on a connection, even one sent too early, is answered in its turn."""
    model.respond(Scenario("Good."))
    with service.connect() as connection:
        connection.sendall(question_bytes("one", None, STREAM) + question_bytes("two", None, PLAIN))
        received = b""
        while b'"response"' not in received:
            piece = await asyncio.to_thread(connection.recv, 65536)
            assert piece, received
            received += piece
    assert received.index(b'"done":true') < received.index(b'"response":"Good."')
    assert model.call_count == 2


# --- clients that do not read


def stalled_client(service: Service, path: str = STREAM) -> socket.socket:
    connection = service.connect(receive_buffer=4096)
    connection.sendall(question_bytes("hello", None, path))
    return connection


async def settled(value: Callable[[], object]) -> None:
    """Return once the value has stood still for a second."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < 1.0:
        await asyncio.sleep(0.02)
        if (now := value()) != last:
            last, since = now, time.monotonic()


async def test_a_client_that_does_not_read_costs_little_and_delays_nobody(serve: Serve) -> None:
    """Ten stalled clients with long answers: other requests are prompt, the memory is bounded.

    Each costs some 7 MB, most of it the HTTP client's buffers. Without a bound on the queue it is
    five times as much here, and grows with the answer.
    """
    service, model = serve()
    async with service.client() as client:
        model.respond(Scenario(pieces=["x"] * 5000))
        await ask(client, "hello", path=STREAM)  # what any answer leaves in memory
        before = service.memory()
        model.respond(Scenario(pieces=["x"] * 40_000))
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(stalled_client(service))
            await model.wait_for_async(lambda m: m.call_count == 11)
            await settled(lambda: ([call.pieces_sent for call in model.calls], service.memory()))
            grown = service.memory() - before
            model.respond(Scenario("Good."))
            started = time.monotonic()
            reply = await ask(client, "hello", path=STREAM)
            took = time.monotonic() - started
            stalled = [call.outcome for call in model.calls[1:11]]
        await model.wait_for_async(lambda m: "open" not in {c.outcome for c in m.calls}, 5.0)
    assert reply.text == "Good."
    assert took < 1
    assert stalled == ["open"] * 10, "the model did not have to wait: nothing was proven"
    assert grown < 140 * MEGABYTE, f"{grown / MEGABYTE:.0f} MB"


async def test_a_slow_reader_gets_everything(service: Service, model: OfflineModel) -> None:
    """A client that reads after a long pause gets the whole answer, in order."""
    model.respond(Scenario(pieces=[f"{n} " for n in range(3000)]))
    with stalled_client(service) as connection:
        await settled(lambda: sum(call.pieces_sent for call in model.calls))
        received = b""
        while b'"done":true' not in received:
            received += await asyncio.to_thread(connection.recv, 65536)
    _, _, body = received.partition(b"\r\n\r\n")
    pieces = b"".join(chunks(body))
    text = "".join(json.loads(data)["chunk"] for data in event_data(pieces))
    assert text == "".join(f"{n} " for n in range(3000))


def chunks(body: bytes) -> Iterator[bytes]:
    """The content of HTTP chunks."""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        yield rest[:length]
        body = rest[length + 2 :]


async def test_a_stalled_client_is_let_go_at_the_deadline(serve: Serve) -> None:
    """A client that reads nothing holds the model no longer than REQUEST_TIMEOUT."""
    service, model = serve(REQUEST_TIMEOUT="1")
    model.respond(Scenario(pieces=["x" * 100] * 1000 * 50))
    with stalled_client(service):
        await model.wait_for_async(lambda m: m.call_count == 1)
        await model.wait_for_async(lambda m: m.calls[0].outcome != "open", 3.0)


# --- silence


async def test_a_silent_stream_is_kept_alive() -> None:
    """A stream that says nothing for a while carries comments, which no client takes for events."""
    sent: list[bytes] = []
    enough = asyncio.Event()

    async def one_then_silence() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await enough.wait()
        yield b"data: 2\n\n"

    async def send(message: dict[str, object]) -> None:
        body = message.get("body")
        if isinstance(body, bytes):
            sent.append(body)
        if sent.count(PING) == 3:
            enough.set()

    stream = EventStream(one_then_silence())
    stream.ping_interval = 0.01
    async with asyncio.timeout(5):
        await stream.stream_response(send)  # type: ignore[arg-type]
    assert sent[0] == b"data: 1\n\n"
    assert sent[1:4] == [PING] * 3
    assert b"data: 2\n\n" in sent
    assert event_data(b"".join(sent)) == ["1", "2"]
    assert PING.startswith(b":")
    assert EventStream.ping_interval == 15.0


async def test_a_busy_stream_has_no_comments() -> None:
    """As long as events come, nothing is added between them."""
    sent: list[bytes] = []

    async def events() -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(0)
            yield b"data: 1\n\n"

    async def send(message: dict[str, object]) -> None:
        body = message.get("body")
        if isinstance(body, bytes):
            sent.append(body)

    await EventStream(events()).stream_response(send)  # type: ignore[arg-type]
    assert b"".join(sent) == b"data: 1\n\n" * 20
