"""Sessions over HTTP: whose they are, in what order their turns run, and what they survive."""

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import pairwise

import httpx
import psutil
import pytest

from shared.offline_model import Call, OfflineModel, Scenario
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import Advanced
from tests.talking import EITHER_WAY, PLAIN, STREAM, Reply, arriving, ask

MAY_VARY = {"date", "x-process-time", "x-request-id", "ratelimit"}


def echo(call: Call) -> Scenario:
    return Scenario(f"You said {call.messages[-1]['content']}.")


def asked(call: Call) -> list[str]:
    """What the model was told, without its instructions."""
    return [message["content"] for message in call.messages[1:]]


async def all_about(client: httpx.AsyncClient, session_id: str) -> list[tuple[object, ...]]:
    """Every answer to whoever may not know the session: status, headers, bytes."""
    path = f"/api/v1/session/{session_id}"
    turn = {"query": "hello", "session_id": session_id}
    responses = [
        await client.get(path),
        await client.get(f"{path}?include=messages"),
        await client.delete(path),
        await client.post(PLAIN, json=turn),
        await client.post(STREAM, json=turn),
    ]
    headers = [{k: v for k, v in r.headers.items() if k not in MAY_VARY} for r in responses]
    return [
        (r.status_code, r.content, sorted(h.items()))
        for r, h in zip(responses, headers, strict=True)
    ]


async def test_a_foreign_session_is_none(
    carol: httpx.AsyncClient, dave: httpx.AsyncClient, model: OfflineModel
) -> None:
    """To others it does not exist, byte for byte, and their attempts leave no trace in it."""
    model.respond(Scenario("Good."))
    mine = (await ask(carol, "my secret")).session_id
    before = (await carol.get(f"/api/v1/session/{mine}?include=messages")).json()
    count = (await dave.get("/api/v1/sessions")).json()["count"]
    calls = model.call_count
    foreign = await all_about(dave, mine)
    none = await all_about(dave, mine[::-1])
    assert foreign == none
    assert {status for status, *_ in foreign} == {404}
    assert (await dave.get(f"/api/v1/session/{mine}")).json()["code"] == "session_not_found"
    listed = (await dave.get("/api/v1/sessions?limit=1000")).json()
    assert mine not in listed["sessions"]
    assert listed["count"] == count
    assert (await carol.get(f"/api/v1/session/{mine}?include=messages")).json() == before
    assert model.call_count == calls


async def test_a_session_that_is_busy_is_none_to_others(
    carol: httpx.AsyncClient, dave: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A turn under way is neither waited for nor ended by somebody else."""
    model.respond(Scenario("Good."))
    mine = (await ask(carol, "hello")).session_id
    model.respond(Scenario(pieces=["Go", "od."], hang_after=1))
    body = {"query": "again", "session_id": mine}
    async with carol.stream("POST", STREAM, json=body) as response:
        events = arriving(response)
        await anext(events)
        foreign = await all_about(dave, mine)
        assert foreign == await all_about(dave, mine[::-1])
        assert model.calls[-1].outcome == "open"
    await model.wait_for_async(lambda m: m.calls[-1].outcome == "cancelled", 1.0)


@EITHER_WAY
@pytest.mark.parametrize("name", ["mine", "x" * 128, ".", "A-Z.a_z-09"])
async def test_only_the_server_makes_ids(
    carol: httpx.AsyncClient, model: OfflineModel, path: str, name: str
) -> None:
    """A question under an id of the client's own finds no session, and makes none."""
    reply = await ask(carol, "hello", name, path)
    assert (reply.status, reply.code) == (404, "session_not_found")
    assert model.call_count == 0
    made = [(await ask(carol, "hello")).session_id for _ in range(3)]
    assert len(set(made)) == 3
    assert {len(session_id) for session_id in made} == {22}, "16 random bytes, in base64"


async def test_a_page_at_a_time(carol: httpx.AsyncClient, model: OfflineModel) -> None:
    """The list is the caller's own, newest activity first, and pages join without gaps."""
    model.respond(Scenario("Good."))
    made = [(await ask(carol, "hello")).session_id for _ in range(5)]
    await ask(carol, "again", made[2])
    found = list[str]()
    cursor = ""
    while len(found) < 5:
        page = (await carol.get(f"/api/v1/sessions?limit=2{cursor}")).json()
        found += page["sessions"]
        cursor = f"&cursor={page['next_cursor']}"
        assert len(page["sessions"]) <= 2
    assert found[:5] == [made[2], *made[:2:-1], made[1], made[0]]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"cursor": "-1"}, {"cursor": ""}):
        response = await carol.get("/api/v1/sessions", params=dict(wrong))
        assert response.status_code == 422


# --- two workers


@pytest.fixture
async def workers(
    shared_service: Advanced, tokens: dict[str, str]
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Carol at each worker of the shared service."""
    clients = await shared_service.client_of_each_worker(tokens["carol"])
    yield clients
    for client in clients:
        await client.aclose()


async def test_turns_take_turns_across_workers(
    workers: list[httpx.AsyncClient], model: OfflineModel
) -> None:
    """Eight turns at once, at two workers: one by one, none lost, each with all before it."""
    model.respond(echo)
    session = (await ask(workers[0], "begin")).session_id
    words = [f"word{number}" for number in range(8)]
    replies = await asyncio.gather(
        *(
            ask(workers[number % 2], word, session, (PLAIN, STREAM)[number // 2 % 2])
            for number, word in enumerate(words)
        )
    )
    assert [reply.text for reply in replies] == [f"You said {word}." for word in words]
    calls = sorted(model.calls, key=lambda call: call.started_at)
    assert all(a.ended_at is not None and a.ended_at <= b.started_at for a, b in pairwise(calls))
    assert [len(asked(call)) for call in calls] == list(range(1, 19, 2))
    found = (await workers[1].get(f"/api/v1/session/{session}?include=messages")).json()
    said = [message["content"] for message in found["messages"]]
    assert sorted(said[2::2]) == sorted(words)
    assert said[3::2] == [f"You said {word}." for word in said[2::2]]


@EITHER_WAY
async def test_a_delete_ends_a_turn_at_the_other_worker(
    workers: list[httpx.AsyncClient], model: OfflineModel, path: str
) -> None:
    """The turn is told within two seconds, its model call stops, and the session stays gone."""
    model.respond(echo)
    session = (await ask(workers[0], "begin")).session_id
    model.respond(Scenario(hang=True))
    asking = asyncio.create_task(ask(workers[0], "hello", session, path))
    await model.wait_for_async(lambda m: m.call_count == 2)
    assert (await workers[1].delete(f"/api/v1/session/{session}")).status_code == 200
    await model.wait_for_async(lambda m: m.calls[1].outcome == "cancelled", 2.0)
    reply = await asking
    assert (reply.status, reply.code) == (404, "session_not_found")
    for client in workers:
        assert (await client.get(f"/api/v1/session/{session}")).status_code == 404
        assert (await ask(client, "again", session)).status == 404


async def test_a_delete_in_a_first_turn_makes_no_session(
    workers: list[httpx.AsyncClient], model: OfflineModel
) -> None:
    """Deleted while its first stream runs, at either worker, a session never was."""
    for client in workers:
        model.respond(Scenario(pieces=["Hello", "!"], hang_after=1))
        before = (await workers[0].get("/api/v1/sessions")).json()
        body = {"query": f"hello {id(client)}"}
        async with workers[0].stream("POST", STREAM, json=body) as response:
            events = arriving(response)
            await anext(events)
            listed = (await client.get("/api/v1/sessions")).json()["sessions"]
            [session] = set(listed) - set(before["sessions"])
            assert (await client.delete(f"/api/v1/session/{session}")).status_code == 200
            last = [event async for event in events][-1]
        assert last["metadata"]["error"]["code"] == "session_not_found"
        assert (await client.get(f"/api/v1/session/{session}")).status_code == 404


async def test_a_killed_worker_takes_no_session_along(serve: Serve) -> None:
    """kill -9 in mid-turn: another worker starts, and the session goes on within ten seconds.

    The half turn is gone; the other worker's sessions have not noticed.
    """
    service = serve(WORKERS="2")
    token = service.log_in()
    one, other = await service.client_of_each_worker(token)
    service.model.respond(echo)
    session = (await ask(one, "first")).session_id
    service.model.respond(Scenario(pieces=["Hello", "!"], hang_after=1))
    body = {"query": "lost", "session_id": session}
    async with one.stream("POST", STREAM, json=body) as response:
        events = arriving(response)
        await anext(events)
        psutil.Process(service.worker_of(response)).kill()
        killed_at = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(events)
    service.model.respond(echo)
    reply = await ask(other, "second", session)
    took = time.monotonic() - killed_at
    assert (reply.status, reply.text) == (200, "You said second.")
    assert took < 10
    assert asked(service.model.calls[-1]) == ["first", "You said first.", "second"]
    await asyncio.to_thread(
        service.process.wait_for_output, r"(?s)(Application startup complete.*){3}", 20
    )
    assert len(service.workers()) == 2
    for client in (one, other):
        await client.aclose()


async def test_a_killed_service_goes_on_where_it_was(serve: Serve) -> None:
    """kill -9 of everything: after a restart the tokens and the conversation, history and all."""
    service = serve()
    token = service.log_in()
    service.model.respond(echo)
    async with service.client(token) as client:
        session = (await ask(client, "first")).session_id
        await ask(client, "second", session)
    service.process.send(signal.SIGKILL)
    service.process.wait()
    again = serve(model=service.model, state=service.state)
    async with again.client(token) as client:
        assert (await client.get("/api/v1/sessions")).json()["sessions"] == [session]
        reply = await ask(client, "third", session)
    assert reply.text == "You said third."
    history = ["first", "You said first.", "second", "You said second.", "third"]
    assert asked(service.model.calls[-1]) == history


async def test_sessions_have_an_end_and_a_number(serve: Serve) -> None:
    """One that was idle for SESSION_TTL is a 404 everywhere; at MAX_SESSIONS the idlest goes.

    A user's sessions push out nobody else's.
    """
    service = serve(SESSION_TTL="60", MAX_SESSIONS="2", redis=False)
    service.model.respond(echo)
    async with service.user("carol") as carol, service.user("dave") as dave:
        others = (await ask(dave, "hello")).session_id
        made = [(await ask(carol, f"question {number}")).session_id for number in range(3)]
        listed = (await carol.get("/api/v1/sessions")).json()
        assert listed == {"sessions": made[:0:-1], "count": 2, "next_cursor": None}
        assert (await carol.get(f"/api/v1/session/{made[0]}")).status_code == 404
        assert (await dave.get("/api/v1/sessions")).json()["sessions"] == [others]
        grow_old(service, made[1], seconds=61)
        grow_old(service, made[2], seconds=58)
        assert {status for status, *_ in await all_about(carol, made[1])} == {404}
        assert await all_about(carol, made[1]) == await all_about(carol, "never-was")
        listed = (await carol.get("/api/v1/sessions")).json()
        assert (listed["sessions"], listed["count"]) == ([made[2]], 1)
        reply: Reply = await ask(carol, "still here?", made[2])
        assert reply.status == 200


def grow_old(service: Advanced, session_id: str, seconds: int) -> None:
    """Put the session's last activity so far back, instead of waiting for so long."""
    with closing(sqlite3.connect(service.state / "sessions.db")) as connection, connection:
        connection.execute(
            "UPDATE sessions SET active = active - ? WHERE id = ?",
            (seconds * 1_000_000, session_id),
        )
