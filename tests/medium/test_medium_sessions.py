"""Many at once: sessions that do not see each other, turns in their order, limits, deletion."""

import asyncio
import json
import re
from itertools import pairwise

import httpx

from shared.offline_model import Call, OfflineModel, Scenario
from tests.medium.conftest import Serve
from tests.medium.test_medium_leaving import activity
from tests.serving import Service
from tests.talking import EITHER_WAY, PLAIN, STREAM, arriving, ask, question_bytes

MEGABYTE = 1024 * 1024


def echo(call: Call) -> Scenario:
    return Scenario(f"You said {call.messages[-1]['content']}.")


async def test_fifty_sessions_do_not_see_each_other(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """Fifty sessions at once, three turns each: no call to the model has two sessions' words."""
    model.respond(echo)

    async def talk(number: int) -> None:
        for turn in range(3):
            word = f"word{number}-{turn}"
            reply = await ask(client, word, f"{session_id}.{number}", (PLAIN, STREAM)[number % 2])
            assert (reply.status, reply.text) == (200, f"You said {word}.")

    await asyncio.gather(*(talk(number) for number in range(50)))
    seen = [re.findall(r"word(\d+)-\d", json.dumps(call.messages)) for call in model.calls]
    assert len(seen) == 150
    assert all(len(set(owners)) == 1 for owners in seen)
    assert sorted(len(owners) for owners in seen) == [1] * 50 + [3] * 50 + [5] * 50


async def test_twenty_turns_at_once_are_all_stored_in_order(
    service: Service, client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """Twenty turns accepted while one runs are all answered and stored, in that order."""
    model.enqueue(Scenario(hang=True))
    model.respond(echo)
    queued = []
    with service.connect() as holder:
        holder.sendall(question_bytes("holder", session_id))
        await model.wait_for_async(lambda m: m.call_count == 1)
        at = await activity(client, session_id)
        for number in range(20):
            path = (PLAIN, STREAM)[number % 2]
            queued.append(asyncio.create_task(ask(client, f"turn {number}", session_id, path)))
            at = await activity(client, session_id, other_than=at)
        assert model.call_count == 1, "a turn ran beside another"
    replies = await asyncio.gather(*queued)
    session = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    said = [(f"turn {number}", f"You said turn {number}.") for number in range(20)]
    assert [reply.text for reply in replies] == [answer for _, answer in said]
    assert [message["content"] for message in session["messages"]] == [
        text for turn in said for text in turn
    ]
    assert session["message_count"] == 40


async def test_turns_of_one_session_never_overlap(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """Twenty turns sent at the same moment: the model works on one at a time, and none is lost."""
    model.respond(echo)
    words = [f"word{number}" for number in range(20)]
    replies = await asyncio.gather(*(ask(client, word, session_id) for word in words))
    calls = sorted(model.calls, key=lambda call: call.started_at)
    session = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    assert [reply.text for reply in replies] == [f"You said {word}." for word in words]
    assert all(a.ended_at is not None and a.ended_at <= b.started_at for a, b in pairwise(calls))
    assert sorted(message["content"] for message in session["messages"][::2]) == sorted(words)


# --- limits


@EITHER_WAY
async def test_a_turn_that_waits_too_long(serve: Serve, path: str) -> None:
    """After TURN_WAIT in the queue a turn is a 409 with Retry-After; the session goes on."""
    service, model = serve(TURN_WAIT="0.3")
    model.enqueue(Scenario(hang=True))
    model.respond(Scenario("Good."))
    async with service.client() as client:
        with service.connect() as holder:
            holder.sendall(question_bytes("holder", "mine", path))
            await model.wait_for_async(lambda m: m.call_count == 1)
            reply = await ask(client, "hello", "mine", path)
            elsewhere = await ask(client, "hello", "another", path)
        again = await ask(client, "again", "mine", path)
    assert (reply.status, reply.code) == (409, "session_busy")
    assert int(reply.headers["retry-after"]) >= 1
    assert (elsewhere.status, again.status) == (200, 200)
    assert [call.messages[-1]["content"] for call in model.calls] == ["holder", "hello", "again"]


async def test_the_longest_idle_session_makes_room(serve: Serve) -> None:
    """At MAX_SESSIONS the longest idle goes, history and all; busy ones stay."""
    service, model = serve(MAX_SESSIONS="3")
    model.respond(hang_or_answer)
    async with service.client() as client:
        await ask(client, "hello", "busy")
        busy = asyncio.create_task(ask(client, "hang", "busy", STREAM))
        await model.wait_for_async(lambda m: m.call_count == 2)
        for name, query in (("a", "hello"), ("b", "secret"), ("a", "hello"), ("c", "hello")):
            await ask(client, query, name)
        listed = (await client.get("/api/v1/sessions")).json()
        await ask(client, "hello", "b")
        sent = json.dumps(model.calls[-1].messages)
        busy.cancel()
    assert listed["sessions"] == ["c", "a", "busy"]
    assert listed["count"] == 3
    assert "secret" not in sent


async def test_turns_that_fail_push_nobody_out(serve: Serve) -> None:
    """A new session whose first turn fails or is abandoned takes no other's place."""
    service, model = serve(MAX_SESSIONS="2")
    async with service.client() as client:
        for name in ("a", "b"):
            await ask(client, "hello", name)
        model.respond(Scenario(status=400))
        replies = [await ask(client, "hello", path=path) for path in (PLAIN, STREAM)]
        listed = (await client.get("/api/v1/sessions")).json()
    assert [reply.status for reply in replies] == [502, 502]
    assert listed == {"sessions": ["b", "a"], "count": 2, "next_cursor": None}


async def test_busy_sessions_over_the_limit_go_when_they_can(serve: Serve) -> None:
    """While every session is busy a new one is answered all the same; later there is room again."""
    service, model = serve(MAX_SESSIONS="2")
    model.respond(hang_or_answer)
    async with service.client() as client:
        for name in ("a", "b"):
            await ask(client, "hello", name)
        busy = [asyncio.create_task(ask(client, "hang", name)) for name in ("a", "b")]
        await model.wait_for_async(lambda m: m.call_count == 4)
        reply = await ask(client, "hello", "c")
        for task in busy:
            task.cancel()
        async with asyncio.timeout(5):
            while (await client.get("/api/v1/sessions")).json()["count"] > 2:
                pass
    assert reply.status == 200


def hang_or_answer(call: Call) -> Scenario:
    return Scenario(hang=True) if call.messages[-1]["content"] == "hang" else Scenario("Good.")


# --- deletion


@EITHER_WAY
async def test_delete_ends_a_turn_under_way(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str
) -> None:
    """DELETE while the model works: its call ends, the asker is told, nothing comes back."""
    model.respond(Scenario(hang=True))
    asking = asyncio.create_task(ask(client, "hello", session_id, path))
    await model.wait_for_async(lambda m: m.call_count == 1)
    deleted = await client.delete(f"/api/v1/session/{session_id}")
    await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1.0)
    reply = await asking
    found = await client.get(f"/api/v1/session/{session_id}")
    assert deleted.status_code == 200
    assert (reply.status, reply.code) == (404, "session_not_found")
    assert found.status_code == 404


async def test_delete_ends_a_stream(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """DELETE in the middle of a stream: its last event has the error, the session stays gone."""
    model.respond(Scenario(pieces=["Hello", "!"], hang_after=1))
    body = {"query": "hello", "session_id": session_id}
    async with client.stream("POST", STREAM, json=body) as response:
        events = arriving(response)
        await anext(events)
        await client.delete(f"/api/v1/session/{session_id}")
        last = [event async for event in events][-1]
    found = await client.get(f"/api/v1/session/{session_id}")
    model.respond(Scenario("Good."))
    again = await ask(client, "again", session_id)
    assert last["done"]
    assert last["metadata"]["error"]["code"] == "session_not_found"
    assert found.status_code == 404
    assert again.status == 200
    assert len(model.calls[-1].messages) == 2


async def test_delete_ends_waiting_turns(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """DELETE ends the turns that wait as well; the model never hears of them."""
    model.respond(Scenario(hang=True))
    asking = [asyncio.create_task(ask(client, "one", session_id))]
    await model.wait_for_async(lambda m: m.call_count == 1)
    at = await activity(client, session_id)
    asking.append(asyncio.create_task(ask(client, "two", session_id)))
    await activity(client, session_id, other_than=at)
    await client.delete(f"/api/v1/session/{session_id}")
    replies = await asyncio.gather(*asking)
    assert [(reply.status, reply.code) for reply in replies] == [(404, "session_not_found")] * 2
    assert model.call_count == 1
    assert (await client.get(f"/api/v1/session/{session_id}")).status_code == 404


async def test_deleted_sessions_leave_no_memory(serve: Serve) -> None:
    """Two thousand sessions made and deleted: the process is as small as after the first hundreds.

    One that is not freed keeps its question and its answer, 8 kB and more: 16 MB in all.
    """
    service, model = serve()
    model.respond(Scenario("x" * 2000))
    async with service.client() as client:

        async def make_and_delete(name: str) -> None:
            reply = await ask(client, f"{name:_<2000}", name)
            assert reply.status == 200
            assert (await client.delete(f"/api/v1/session/{name}")).status_code == 200

        async def many(label: str, count: int) -> int:
            for start in range(0, count, 20):
                names = (f"{label}{number}" for number in range(start, start + 20))
                await asyncio.gather(*map(make_and_delete, names))
            return service.memory()

        warm = await many("warm", 200)
        after = await many("s", 2000)
        left = (await client.get("/api/v1/sessions")).json()["count"]
    assert left == 0
    assert after - warm < 4 * MEGABYTE, f"{(after - warm) / MEGABYTE:.1f} MB"
