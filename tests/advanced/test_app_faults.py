"""Models that fail and clients that leave: through the cache, and with a history past it."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from shared.offline_model import Call, OfflineModel, Scenario
from tests.advanced.serving_advanced import Advanced, served_advanced
from tests.medium.test_medium_faults import AFTER, ANSWER, FAULTS, silent_on_upstream
from tests.medium.test_medium_leaving import WAYS_TO_LEAVE
from tests.talking import EITHER_WAY, PLAIN, STREAM, Reply, arriving, ask, request_bytes

FIRST_OR_LATER = pytest.mark.parametrize("later", [False, True], ids=["first turn", "later turn"])


def by_name(call: Call) -> Scenario:
    """What the question's first word, up to a slash, names."""
    name = call.messages[-1]["content"].partition("/")[0]
    known = {name: scenario for name, (scenario, *_) in FAULTS.items()}
    return known.get(name, Scenario("Good."))


def by_name_after(call: Call) -> Scenario:
    name = call.messages[-1]["content"].partition("/")[0]
    return AFTER[name][0] if name in AFTER else Scenario("Good.")


async def begun(client: httpx.AsyncClient, later: bool, label: str) -> str | None:
    """A session with one turn in it, or none yet."""
    return (await ask(client, f"begin {label}")).session_id if later else None


@pytest.fixture(scope="module")
def hurried(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Advanced]:
    """A service whose deadline is soon, for models that never answer; it caches."""
    state = tmp_path_factory.mktemp("state")
    with served_advanced(checkout, state, REQUEST_TIMEOUT="3") as service:
        yield service


@FIRST_OR_LATER
async def test_every_fault_has_its_status(hurried: Advanced, later: bool) -> None:
    """All of them at once, plain and streamed: the contract's status, calls, and no foreign word.

    No failed turn stays: a first one leaves no session, a later one leaves its session usable, and
    the same question asked again is put to the model again.
    """
    model = hurried.model
    model.clear()
    model.respond(by_name)
    async with hurried.user() as client:
        before = (await client.get("/api/v1/sessions")).json()["count"]

        async def fail(name: str, path: str) -> tuple[str, str, str | None, Reply]:
            session = await begun(client, later, f"{name}{path}")
            return name, path, session, await ask(client, f"{name}/{path}", session, path)

        both = [(name, path) for name in FAULTS for path in (PLAIN, STREAM)]
        results = await asyncio.gather(*(fail(*case) for case in both))
        listed = (await client.get("/api/v1/sessions")).json()["count"]
        asked = [call.messages[-1]["content"] for call in model.calls]
        model.respond(Scenario("Well again."))
        for name, path, session, reply in results:
            scenario, expected, calls = FAULTS[name]
            assert (reply.status, reply.code) == expected, name
            assert asked.count(f"{name}/{path}") in calls, name
            if scenario.retry_after is not None and reply.status == 503:
                assert reply.headers["retry-after"] == str(scenario.retry_after)
            silent_on_upstream(reply)
            again = await ask(client, f"{name}/{path}", session, path)
            assert (again.text, again.metadata["cached"]) == ("Well again.", False), name
    assert listed == before + (len(both) if later else 0)


@FIRST_OR_LATER
async def test_a_fault_in_mid_stream_is_the_last_event(hurried: Advanced, later: bool) -> None:
    """What was said has arrived, then one last event has the error; nothing of it is kept."""
    hurried.model.respond(by_name_after)
    async with hurried.user() as client:

        async def fail(name: str) -> tuple[str, str | None, Reply]:
            session = await begun(client, later, name)
            return name, session, await ask(client, f"{name}/", session, STREAM)

        results = await asyncio.gather(*(fail(name) for name in AFTER))
        hurried.model.respond(Scenario("Well again."))
        for name, session, reply in results:
            assert (reply.status, reply.text) == (200, "".join(ANSWER[:2])), name
            assert reply.code == AFTER[name][1], name
            silent_on_upstream(reply)
            again = await ask(client, f"{name}/", session, PLAIN)
            assert (again.text, again.metadata["cached"]) == ("Well again.", False), name
            if session:
                url = f"/api/v1/session/{session}?include=messages"
                said = [m["content"] for m in (await client.get(url)).json()["messages"]]
                assert said == [f"begin {name}", "Good.", f"{name}/", "Well again."]


async def test_a_stream_comes_as_the_model_speaks(
    carol: httpx.AsyncClient, model: OfflineModel
) -> None:
    """The first word is there while the model still thinks about the second; never all at once."""
    for session in (None, (await ask(carol, "hello")).session_id):
        model.respond(Scenario(pieces=["Hello", "!"], hang_after=1))
        body = {"query": f"stream {session}", "session_id": session}
        async with carol.stream("POST", STREAM, json=body) as response:
            first = await anext(arriving(response))
            assert (first["chunk"], first["done"]) == ("Hello", False)
            assert model.calls[-1].outcome == "open"
        await model.wait_for_async(lambda m: m.calls[-1].outcome == "cancelled", 1.0)


# --- clients that leave


def asked_by(token: str, query: str, session_id: str | None, path: str) -> bytes:
    body = json.dumps({"query": query, "session_id": session_id}).encode()
    return request_bytes(body, path=path, headers={"Authorization": f"Bearer {token}"})


@EITHER_WAY
@FIRST_OR_LATER
@WAYS_TO_LEAVE
async def test_the_model_stops_when_its_client_leaves(
    shared_service: Advanced,
    tokens: dict[str, str],
    carol: httpx.AsyncClient,
    model: OfflineModel,
    path: str,
    later: bool,
    leave: Callable[[socket.socket], None],
) -> None:
    """Gone before the first token: the call is cancelled within a second, the turn undone."""
    model.respond(Scenario("Good."))
    session = await begun(carol, later, "x")
    count = (await carol.get("/api/v1/sessions")).json()["count"]
    model.respond(Scenario(hang=True))
    with shared_service.process.connect() as connection:
        connection.sendall(asked_by(tokens["carol"], "hello", session, path))
        await model.wait_for_async(lambda m: m.call_count == 1 + later)
        leave(connection)
        await model.wait_for_async(lambda m: m.calls[-1].outcome == "cancelled", 1.0)
    model.respond(Scenario("All is well."))
    reply = await ask(carol, "next", session)
    assert (reply.status, reply.text) == (200, "All is well.")
    told = [message["content"] for message in model.calls[-1].messages[1:]]
    assert told == [*(["begin x", "Good."] if later else []), "next"]
    listed = (await carol.get("/api/v1/sessions")).json()["count"]
    assert listed == count + (not later)


@FIRST_OR_LATER
@WAYS_TO_LEAVE
async def test_the_model_stops_in_mid_stream(
    shared_service: Advanced,
    tokens: dict[str, str],
    carol: httpx.AsyncClient,
    model: OfflineModel,
    later: bool,
    leave: Callable[[socket.socket], None],
) -> None:
    """Gone after some tokens: the call is cancelled within a second."""
    session = await begun(carol, later, "x")
    model.respond(Scenario(huge=90_000, token_delay=0.02))
    with shared_service.process.connect() as connection:
        connection.sendall(asked_by(tokens["carol"], "hello", session, STREAM))
        received = b""
        while received.count(b"data:") < 3:
            received += await asyncio.to_thread(connection.recv, 4096)
        leave(connection)
        await model.wait_for_async(lambda m: m.calls[-1].outcome == "cancelled", 1.0)


@EITHER_WAY
async def test_who_shares_a_call_keeps_it_alive(
    shared_service: Advanced, tokens: dict[str, str], model: OfflineModel, path: str
) -> None:
    """Of two who asked the same at two workers one leaves: the call goes on; it ends with both."""
    model.respond(Scenario(hang=True))
    clients = await shared_service.client_of_each_worker(tokens["carol"])
    before = (await clients[0].get("/api/v1/sessions")).json()["count"]
    asking = [asyncio.create_task(ask(client, "hello", path=path)) for client in clients]
    await model.wait_for_async(lambda m: m.call_count == 1)
    async with asyncio.timeout(5):  # both turns are under way once both have a session
        while (await clients[0].get("/api/v1/sessions")).json()["count"] < before + 2:
            pass
    for number, task in enumerate(asking):
        task.cancel()
        await asyncio.wait([task])
        if number == 0:
            with pytest.raises(TimeoutError):
                await model.wait_for_async(lambda m: m.calls[0].outcome != "open", 1.5)
    await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1.5)
    assert model.call_count == 1
    for client in clients:
        await client.aclose()
