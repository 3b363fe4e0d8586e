"""The graded suite of the medium lab: an agent as a service, seen from outside."""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx

from grader.judge import (
    PLAIN,
    STREAM,
    Client,
    Reply,
    arriving,
    check,
    event_data,
    question_bytes,
)
from grader.judge.service import Service
from shared.offline_model import Call, OfflineModel, Scenario, ToolCall, Usage

PATIENCE = 8.0
"""Seconds that something may take which a right answer does at once; a machine may be busy."""

LEAVING = 4.0
"""Seconds to see a call to the model end; one that does not stop goes on for much longer."""

ERROR = {"error", "detail", "code"}
UPSTREAM = ("rate limit", "the request was refused", "invalid_request", "had an error", "traceback")
"""Words of the model's own errors."""


def new_session() -> str:
    return f"s-{uuid4()}"


def session_path(session_id: str) -> str:
    return f"/api/v1/session/{session_id}"


def echo(call: Call) -> Scenario:
    return Scenario(f"You said {call.messages[-1]['content']}.")


def for_ever(_: Call) -> Scenario:
    """A model that asks for tools again and again."""
    return Scenario(tool_calls=[ToolCall("nobody", {"task": "again"})])


def words(rng: random.Random, count: int) -> list[str]:
    return [f"{''.join(rng.choices('abcdefghij', k=6))} " for _ in range(count)]


async def say(
    client: Client, query: str, session_id: str | None = None, path: str = PLAIN, **more: Any
) -> tuple[int, str]:
    """The status and the answer of a turn, whatever its last event says: that is another check."""
    body = {"query": query, "session_id": session_id, **more}
    response = await client.post(path, json=body)
    if response.status_code != 200:
        return response.status_code, ""
    if path == STREAM:
        events = [json.loads(data) for data in event_data(response.content)]
        return 200, "".join(event["chunk"] for event in events)
    return 200, str(response.json()["response"])


async def answered(client: Client, query: str = "hello", *where: str) -> None:
    """The feature at work, before a check looks at its edges."""
    status, _ = await say(client, query, *where)
    assert status == 200, "a question should be answered with 200"


async def seen(
    model: OfflineModel,
    predicate: Callable[[OfflineModel], bool],
    promise: str,
    seconds: float = PATIENCE,
) -> None:
    """AssertionError with the promise if the model does not see it."""
    try:
        await model.wait_for_async(predicate, seconds)
    except TimeoutError:
        raise AssertionError(promise) from None


async def messages(client: Client, session_id: str) -> list[str]:
    response = await client.get(session_path(session_id), params={"include": "messages"})
    assert response.status_code == 200, "a session that has had a turn should be found"
    return [str(message["content"]) for message in response.json()["messages"]]


def refused(response: httpx.Response, status: int, code: str, what: str) -> None:
    """Whether it is the ErrorResponse that was promised."""
    assert response.status_code == status, f"{what} should be refused with {status}"
    assert response.headers["content-type"].startswith("application/json"), (
        f"{what} should be refused in JSON"
    )
    assert set(response.json()) == ERROR, f"{what} should be refused with an ErrorResponse"
    assert response.json()["code"] == code, f"{what} should be refused with the code {code}"


def silent_on_upstream(reply: Reply) -> None:
    said = reply.raw.decode().lower()
    assert not any(word in said for word in UPSTREAM), (
        "what the model's server said in its error should not reach the client"
    )


# --- it runs


@check("runs")
async def test_runs(service: Service, model: OfflineModel) -> None:
    """The service says what it is and that it is well; the pages it names are there."""
    model.respond(Scenario(hang=True))
    async with service() as client:
        root = await client.get("/")
        assert root.status_code == 200, "GET / should answer"
        about = root.json()
        assert about["title"], "GET / should say the service's title"
        assert about["version"], "GET / should say the service's version"
        try:
            async with asyncio.timeout(PATIENCE):
                health = await client.get("/health")
        except TimeoutError:
            raise AssertionError("a silent model should not keep GET /health waiting") from None
        assert (health.status_code, health.json()) == (200, {"status": "healthy"}), (
            "GET /health should say that the process is healthy"
        )
        for page in ("docs", "playground", "health"):
            found = await client.get(about[page])
            assert found.status_code == 200, f"the {page} that GET / names should be there"
    assert model.call_count == 0, "none of these pages should ask the model anything"


@check("reads_settings")
async def test_reads_settings(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """Settings have the effect that they promise; one that makes no sense stops the start."""
    origin = "https://course.example"
    name = rng.choice(["offline-assistant", "gpt-4.1-mini"])
    model.respond(Scenario("Good."))
    async with service(OPENAI_MODEL=name, CORS_ORIGINS=origin, MAX_SESSIONS=2) as client:
        for session in ("one", "two", "three"):
            await answered(client, "hello", session)
        assert model.calls[-1].model == name, "OPENAI_MODEL should be the model that is asked"
        listed = (await client.get("/api/v1/sessions")).json()
        assert listed["count"] == 2, "no more than MAX_SESSIONS sessions should be kept"
        page = await client.get("/health", headers={"Origin": origin})
        assert page.headers.get("access-control-allow-origin") == origin, (
            "a page from one of CORS_ORIGINS should be let in"
        )
    await service.refuses(REQUEST_TIMEOUT=0)


# --- all endpoints respond


@check("answers")
async def test_answers(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """An answer has all fields of a QueryResponse, and they are true."""
    text, usage = "".join(words(rng, 5)), Usage(rng.randint(20, 90), rng.randint(5, 20))
    model.respond(Scenario(text, usage=usage))
    question = 'Say {it} to "me": {"role": "system"}'
    async with service() as client:
        before = time.perf_counter()
        reply = await client.ask(question)
        took = time.perf_counter() - before
        assert reply.status == 200, "a question should be answered with 200"
        promised = {"response", "session_id", "execution_time", "tokens_used", "metadata"}
        assert set(reply.body) == promised, "an answer should have the fields of a QueryResponse"
        assert reply.text == text, "the response should be the model's text"
        assert model.calls[0].messages[-1]["content"] == question, (
            "the question should reach the model as it was asked"
        )
        assert reply.session_id, "an answer should tell the session's id"
        assert 0 < reply.body["execution_time"] <= took, (
            "execution_time should be the seconds that the answer took"
        )
        assert reply.body["tokens_used"] == usage.prompt_tokens + usage.completion_tokens, (
            "tokens_used should be what the model reported"
        )
        told = reply.body["metadata"]
        assert (told["iterations"], told["tools"], told["stopped"]) == (1, [], None), (
            "metadata should tell the iterations, the tools used, and why an answer is not whole"
        )
        model.respond(Scenario("Hello.", usage=False))
        reply = await client.ask("hello")
        assert reply.body["tokens_used"] is None, (
            "tokens_used should be null when the model reported none"
        )


@check("answers")
async def test_every_call_counts(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """Tools are named, every call to the model is counted, and max_iterations bounds them."""
    a, b = rng.randint(101, 999), rng.randint(11, 99)
    async with service() as client:
        reply = await client.ask(f"What is {a} * {b}?")
        assert reply.status == 200, "a question for the analyst should be answered"
        assert str(a * b) in reply.text.replace(",", ""), (
            "the analyst's result should be in the answer"
        )
        assert reply.metadata["iterations"] == model.call_count, (
            "iterations should count every call to the model"
        )
        assert "calculate" in [tool["name"] for tool in reply.metadata["tools"]], (
            "metadata should name the tools that were used"
        )
        model.respond(for_ever)
        for bound in (rng.choice([2, 3, 4]), 50):
            before = model.call_count
            reply = await client.ask("hello", max_iterations=bound)
            assert reply.status == 200, (
                "a turn at its bound is answered with a sentence, not an error"
            )
            assert reply.metadata["stopped"] == "max_iterations", (
                "a turn at its bound should say that it was stopped"
            )
            assert model.call_count - before == bound, (
                "max_iterations should bound the calls to the model"
            )
        left_open: dict[str, dict[str, Any]] = {
            "without": {},
            "with null for": {"max_iterations": None},
        }
        for how, said in left_open.items():
            before = model.call_count
            reply = await client.ask("hello", **said)
            assert (reply.status, model.call_count - before) == (200, 10), (
                f"{how} max_iterations a turn should be answered, after ten calls"
            )


@check("many_at_once")
async def test_many_at_once(service: Service, model: OfflineModel) -> None:
    """Eight questions hang; health, sessions and another question are answered all the same."""

    def hang_or_answer(call: Call) -> Scenario:
        return Scenario(hang=True) if call.messages[-1]["content"] == "hang" else Scenario("Good.")

    model.respond(hang_or_answer)
    async with service() as client:
        await answered(client)
        await answered(client, "hello", new_session(), STREAM)
        hanging = [
            asyncio.create_task(client.ask("hang", new_session(), path))
            for path in [PLAIN, STREAM] * 4
        ]
        promise = "questions of different sessions should all reach the model at the same time"
        await seen(model, lambda m: m.call_count == 10, promise)
        try:
            async with asyncio.timeout(PATIENCE):
                health = await client.get("/health")
                listed = await client.get("/api/v1/sessions")
                reply = await client.ask("hello")
        except TimeoutError:
            raise AssertionError("a silent model should keep nobody else waiting") from None
        assert (health.status_code, listed.status_code, reply.status) == (200, 200, 200), (
            "while the model is silent for some, others should be answered"
        )
        assert not any(task.done() for task in hanging), "a silent model is to be waited for"
        for task in hanging:
            task.cancel()


@check("session_endpoints")
async def test_session_endpoints(service: Service, model: OfflineModel) -> None:
    """The list is newest first, and comes page by page; then one session is looked at."""
    model.respond(Scenario("Good."))
    names = [new_session() for _ in range(5)]
    async with service() as client:
        for name in [*names, names[1]]:
            await answered(client, "hello", name)
        newest_first = [names[1], names[4], names[3], names[2], names[0]]
        response = await client.get("/api/v1/sessions")
        assert response.status_code == 200, "GET /api/v1/sessions should answer"
        listed = response.json()
        assert listed["sessions"] == newest_first, "sessions should come newest activity first"
        assert (listed["count"], listed["next_cursor"]) == (5, None), (
            "the list should count all sessions and end without a cursor"
        )
        found: list[str] = []
        cursor: dict[str, Any] = {}
        for size in (1, 2, 2):
            page = (await client.get("/api/v1/sessions", params={"limit": size, **cursor})).json()
            assert page["count"] == 5, "a page should count all sessions, on it or not"
            found += page["sessions"]
            cursor = {"cursor": page["next_cursor"]}
        assert found == newest_first, "the pages together should be the list"
        for limit in (0, 1001):
            wrong = await client.get("/api/v1/sessions", params={"limit": limit})
            refused(wrong, 422, "validation_error", "a page of no sessions, or of too many")
        await shown_and_deleted(client, model)


async def shown_and_deleted(client: Client, model: OfflineModel) -> None:
    """A session tells its times and messages, and after DELETE it is not there any more."""
    model.respond(echo)
    name = new_session()
    await answered(client, "one", name)
    before = (await client.get(session_path(name))).json()
    await answered(client, "two", name)
    shown = (await client.get(session_path(name))).json()
    assert shown["session_id"] == name, "a session should tell its id"
    times = [before["created_at"], before["last_activity"], shown["last_activity"]]
    made, used, used_again = (datetime.fromisoformat(each) for each in times)
    assert made.utcoffset() == timedelta(0), "times should be in UTC, and say so"
    assert made <= used < used_again, "last_activity should move with every turn"
    assert shown["created_at"] == before["created_at"], "created_at should not move"
    assert shown["message_count"] == 4, "message_count should count questions and answers"
    assert not shown.get("messages"), "messages should be told only where they are asked for"
    assert await messages(client, name) == ["one", "You said one.", "two", "You said two."], (
        "?include=messages should tell the conversation, oldest first"
    )
    deleted = await client.delete(session_path(name))
    assert deleted.status_code == 200, "DELETE should delete a session that is there"
    assert deleted.json()["session_id"] == name, "DELETE should tell which session is gone"
    refused(await client.get(session_path(name)), 404, "session_not_found", "a deleted session")
    again = await client.delete(session_path(name))
    refused(again, 404, "session_not_found", "deleting a session a second time")
    listed = (await client.get("/api/v1/sessions")).json()["sessions"]
    assert name not in listed, "a deleted session should not be listed"
    await answered(client, "three", name)
    assert len(model.calls[-1].messages) == 2, (
        "a session that was deleted should begin again with nothing"
    )


# --- streaming


@check("stream_events")
async def test_stream_events(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """Each piece is an event with its agent, each tool, too; the last event alone is done."""
    pieces = [
        *words(rng, 4),
        "two\nlines\n\n",
        "data: x\n\n",
        "\u2028 e\u0301 \U0001f469\u200d\U0001f467",
    ]
    usage = Usage(rng.randint(20, 90), 12)
    model.respond(Scenario(pieces=pieces, usage=usage))
    async with service() as client:
        before = time.perf_counter()
        reply = await client.ask("Say it", path=STREAM)
        took = time.perf_counter() - before
        assert reply.status == 200, "a stream should be answered with 200"
        assert reply.headers["content-type"].split(";")[0] == "text/event-stream", (
            "a stream should say that it is text/event-stream"
        )
        told = [event for event in reply.events if event["chunk"]]
        assert [event["chunk"] for event in told] == pieces, (
            "the model's pieces should come as they are, one event for each"
        )
        assert all(event["metadata"]["agent"] == "supervisor" for event in told), (
            "an event should name the agent that speaks"
        )
        last = reply.metadata
        promised = {"session_id", "execution_time", "tokens_used", "iterations", "stopped"}
        assert promised <= set(last), "the last event should tell what a plain answer tells"
        assert last["tokens_used"] == usage.prompt_tokens + usage.completion_tokens, (
            "the last event should tell the tokens that the model reported"
        )
        assert 0 < last["execution_time"] <= took, (
            "execution_time should be the seconds that the answer took"
        )
        assert (last["iterations"], last["stopped"]) == (1, None), (
            "the last event should tell the iterations, and why an answer is not whole"
        )
        shown = await client.get(session_path(str(last["session_id"])))
        assert shown.status_code == 200, "the session whose id is told should be there"
        model.respond(None)
        reply = await client.ask(f"What is {rng.randint(11, 99)} * 12?", path=STREAM)
        bound = rng.choice([2, 3, 25])
        model.clear()
        model.respond(for_ever)
        status, text = await say(client, "hello", path=STREAM, max_iterations=bound)
        assert (status, model.call_count) == (200, bound), "max_iterations should bound a stream"
        assert text, "a stream at its bound should end with a sentence"
        before = model.call_count
        status, text = await say(client, "hello", path=STREAM, max_iterations=None)
        assert (status, model.call_count - before) == (200, 10), (
            "with null for max_iterations a stream should come, after ten calls"
        )
    assert reply.status == 200, "a question for the analyst should be streamed"
    tools = [event["metadata"]["tool"] for event in reply.events if event["metadata"].get("tool")]
    assert [tool["name"] for tool in tools] == ["ask_analyst", "calculate"], (
        "each tool that is called should be an event, in its order"
    )
    assert all(tool["arguments"] for tool in tools), "a tool's event should tell its arguments"


async def read_events(response: httpx.Response, count: int) -> list[str]:
    """The chunks that are not empty, until there are `count` of them."""
    chunks: list[str] = []
    async for event in arriving(response):
        chunks += [event["chunk"]] if event["chunk"] else []
        if len(chunks) == count:
            break
    return chunks


@check("stream_as_written")
async def test_stream_as_written(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """The model says a few words and then nothing more: the words are at the client."""
    count = rng.randint(2, 5)
    pieces = words(rng, 8)
    async with service() as client:
        for written in (1, count):
            model.respond(Scenario(pieces=pieces, hang_after=written))
            try:
                async with (
                    asyncio.timeout(PATIENCE),
                    client.stream("POST", STREAM, json={"query": "Say it"}) as response,
                ):
                    assert response.status_code == 200, "a stream should be answered with 200"
                    came = await read_events(response, written)
                    at_work = model.calls[-1].outcome
            except TimeoutError:
                raise AssertionError(
                    "what the model has written should be at the client while it still writes"
                ) from None
            assert came == pieces[:written], "the pieces should come as the model wrote them"
            assert at_work == "open", "the events should come while the model is at work"


@check("stream_commits_late")
async def test_faults_before_the_first_event(
    service: Service, model: OfflineModel, rng: random.Random
) -> None:
    """A model that fails before its first word gives the stream a status of its own."""
    seconds = rng.randint(3, 50)
    async with service() as client:
        await answered(client, "hello", new_session(), STREAM)
        model.respond(Scenario(status=429, retry_after=seconds))
        busy = await client.ask("hello", path=STREAM)
        assert busy.status == 503, "a busy model should be a 503, of a stream as well"
        assert busy.code == "model_unavailable", "a 503 should say model_unavailable"
        assert busy.headers.get("retry-after") == str(seconds), (
            "the model's Retry-After should be passed on"
        )
        model.respond(Scenario("Hello.", malformed=True))
        broken = await client.ask("hello", path=STREAM)
        assert (broken.status, broken.code) == (502, "model_error"), (
            "an unusable answer before its first word should be a 502"
        )


@check("stream_commits_late")
async def test_silence_before_the_first_event(service: Service, model: OfflineModel) -> None:
    """A model that says nothing at all until the deadline is a 504, not a 200."""
    model.respond(Scenario(hang=True))
    async with service(REQUEST_TIMEOUT=0.5) as client:
        reply = await client.ask("hello", path=STREAM)
    assert (reply.status, reply.code) == (504, "model_timeout"), (
        "silence until REQUEST_TIMEOUT should be a 504"
    )


async def leave_and_go_on(
    client: Client, model: OfflineModel, path: str, scenario: Scenario, events: int
) -> None:
    """Ask, read some events, and leave; then the model has to stop, and the session to go on."""
    await answered(client, "hello", new_session(), path)
    asked, session = model.call_count, new_session()
    model.respond(scenario)
    with client.connect() as connection:
        connection.sendall(question_bytes("hello", session, path))
        await seen(model, lambda m: m.call_count > asked, "a question should reach the model")
        call, received = model.calls[-1], b""
        connection.settimeout(PATIENCE)
        while received.count(b"data:") < events:
            try:
                piece = await asyncio.to_thread(connection.recv, 4096)
            except TimeoutError:
                piece = b""
            assert piece, "events should come while the model writes"
            received += piece
        assert call.outcome == "open", "the answer should not be over before its client has gone"
    promise = "when the client has gone, the call to the model should be cancelled within a second"
    await seen(model, lambda _: call.outcome == "cancelled", promise, LEAVING)
    model.respond(Scenario("All is well."))
    try:
        async with asyncio.timeout(PATIENCE):
            went_on = await say(client, "next", session, path)
    except TimeoutError:
        raise AssertionError("a turn whose client has gone should not hold its session") from None
    assert went_on == (200, "All is well."), "the session should go on"
    assert await messages(client, session) == ["next", "All is well."], (
        "a turn that was abandoned should leave nothing in the conversation"
    )
    model.clear()


@check("stream_stops_model")
async def test_the_model_stops_in_mid_stream(service: Service, model: OfflineModel) -> None:
    """A reader leaves a model that writes, one that has fallen silent, one that has not begun."""
    async with service() as client:
        slowly = Scenario(pieces=["word "] * 2000, token_delay=0.02)
        await leave_and_go_on(client, model, STREAM, slowly, 3)
        fell_silent = Scenario(pieces=["word "] * 9, hang_after=2)
        await leave_and_go_on(client, model, STREAM, fell_silent, 2)
        await leave_and_go_on(client, model, STREAM, Scenario(hang=True), 0)


@check("plain_stops_model")
async def test_the_model_stops_without_a_stream(service: Service, model: OfflineModel) -> None:
    """Somebody who waits for a whole answer leaves: nobody needs it any more."""
    async with service() as client:
        await leave_and_go_on(client, model, PLAIN, Scenario(hang=True), 0)


# --- sessions


@check("remembers")
async def test_remembers(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """Each turn of a session reaches the model with the turns before it."""
    one, two, three = (word.strip() for word in words(rng, 3))
    model.respond(echo)
    async with service() as client:
        first = await client.ask(one)
        assert first.status == 200, "a question should be answered"
        session = first.session_id
        await answered(client, two, session)
        third = await client.ask(three, session)
        assert third.session_id == session, (
            "a turn should tell the id of the session that it belongs to"
        )
        other = await client.ask("hello")
        assert other.session_id != session, "without an id a new session should begin"
        found = await messages(client, other.session_id)
    sent = [(message["role"], message["content"]) for message in model.calls[2].messages[1:]]
    assert sent == [
        ("user", one),
        ("assistant", f"You said {one}."),
        ("user", two),
        ("assistant", f"You said {two}."),
        ("user", three),
    ], "the model should see the turns before, in their order, and then the question"
    assert found == ["hello", "You said hello."], "the id that is told should be the session's"


@check("apart")
async def test_apart(service: Service, model: OfflineModel) -> None:
    """Twelve sessions at once, two turns each: no call has the words of two of them."""
    model.respond(echo)
    base = new_session()

    async def talk(number: int) -> list[tuple[int, str]]:
        path = (PLAIN, STREAM)[number % 2]
        return [await say(client, f"word{number}x", f"{base}.{number}", path) for _ in range(2)]

    async with service() as client:
        spoken = await asyncio.gather(*(talk(number) for number in range(12)))
    for number, replies in enumerate(spoken):
        assert replies == [(200, f"You said word{number}x.")] * 2, (
            "every session should get its own answers"
        )
    owners = [set(re.findall(r"word(\d+)x", json.dumps(call.messages))) for call in model.calls]
    assert all(len(each) == 1 for each in owners), (
        "no call to the model should carry the words of another session"
    )


@check("in_order")
async def test_one_after_another(service: Service, model: OfflineModel) -> None:
    """Ten turns of one session at the same moment: one at a time, and none is lost."""

    def slow_echo(call: Call) -> Scenario:
        return Scenario(f"You said {call.messages[-1]['content']}.", first_token_delay=0.04)

    model.respond(slow_echo)
    session = new_session()
    asked = [f"turn {number}" for number in range(10)]
    async with service() as client:
        paths = [PLAIN, STREAM] * 5
        replies = await asyncio.gather(
            *(say(client, query, session, path) for query, path in zip(asked, paths, strict=True))
        )
        assert replies == [(200, f"You said {query}.") for query in asked], (
            "turns of one session should all be answered"
        )
        kept = await messages(client, session)
    calls = sorted(model.calls, key=lambda call: call.started_at)
    assert all(
        before.ended_at is not None and before.ended_at <= after.started_at
        for before, after in pairwise(calls)
    ), "the model should work on one turn of a session at a time"
    assert sorted(kept[::2]) == sorted(asked), "no turn of a session should be lost"
    assert kept[1::2] == [f"You said {query}." for query in kept[::2]], (
        "each question should be kept together with its answer"
    )


@check("in_order")
async def test_waiting_has_a_limit(service: Service, model: OfflineModel) -> None:
    """A turn that waits longer than TURN_WAIT is a 409 that says when to come back."""

    def hang_or_answer(call: Call) -> Scenario:
        return Scenario(hang=True) if call.messages[-1]["content"] == "hang" else Scenario("Good.")

    model.respond(hang_or_answer)
    session = new_session()
    async with service(TURN_WAIT=0.3) as client:
        await answered(client, "hello", session)
        holder = asyncio.create_task(client.ask("hang", session))
        await seen(model, lambda m: m.call_count == 2, "a question should reach the model")
        try:
            async with asyncio.timeout(PATIENCE):
                waited = await client.ask("hello", session)
        except TimeoutError:
            raise AssertionError("a turn should not wait longer than TURN_WAIT") from None
        holder.cancel()
    assert (waited.status, waited.code) == (409, "session_busy"), (
        "a turn that waited longer than TURN_WAIT should be refused with 409"
    )
    assert waited.headers.get("retry-after"), "a 409 should say in Retry-After when to come back"


@check("delete_ends_turn")
async def test_delete_ends_turn(service: Service, model: OfflineModel) -> None:
    """DELETE while the model works: its call ends, the asker is told, nothing comes back."""
    async with service() as client:
        for path in (PLAIN, STREAM):
            session = new_session()
            model.respond(Scenario("Good."))
            await answered(client, "hello", session, path)
            model.clear()
            model.respond(Scenario(hang=True))
            asking = asyncio.create_task(client.ask("hello", session, path))
            await seen(model, lambda m: m.call_count == 1, "a question should reach the model")
            try:
                async with asyncio.timeout(PATIENCE):
                    deleted = await client.delete(session_path(session))
                    reply = await asking
            except TimeoutError:
                raise AssertionError("DELETE should end the turn under way") from None
            assert deleted.status_code == 200, "a session whose turn is under way can be deleted"
            promise = "the call to the model should stop when its session is deleted"
            await seen(model, lambda m: m.calls[0].outcome == "cancelled", promise, LEAVING)
            assert (reply.status, reply.code) == (404, "session_not_found"), (
                "whoever waits for an answer in a deleted session should be told that it is gone"
            )
            gone = await client.get(session_path(session))
            refused(gone, 404, "session_not_found", "a deleted session")
            model.respond(Scenario("Good."))
            await answered(client, "again", session)
            assert len(model.calls[-1].messages) == 2, (
                "a session that was deleted should begin again with nothing"
            )


# --- errors


@check("refusals")
async def test_refusals(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """Everything that is wrong with a request has its status, its code, and one shape."""
    model.respond(Scenario("Good."))
    secret = f"value{rng.randrange(10**9)}"
    async with service() as client:
        await answered(client)
        body = {"query": "hello", "stream": True}
        wants_a_stream = await client.post(PLAIN, json=body)
        refused(wants_a_stream, 400, "use_stream_endpoint", "stream: true on the plain endpoint")
        refused(
            await client.get(session_path(secret)), 404, "session_not_found", "an unknown session"
        )
        for unknown in (f"/{secret}", "/api/v1/sessions/"):
            refused(await client.get(unknown), 404, "not_found", "an unknown path")
        wrong_method = await client.put(PLAIN, json={"query": "hello"})
        refused(wrong_method, 405, "method_not_allowed", "a wrong method")
        assert wrong_method.headers.get("allow") == "POST", "a 405 should say what is allowed"
        for path in (PLAIN, STREAM):
            large = await client.post(path, json={"query": "x" * 70_000})
            refused(large, 413, "too_large", "a body of more than 64 KiB")
            for sent in ({"query": " "}, {"query": "x", "session_id": f"{secret}!"}, {}, [secret]):
                wrong = await client.post(path, json=sent)
                refused(wrong, 422, "validation_error", "a request that is not valid")
                assert secret not in wrong.text, "a refusal should not repeat what was sent"
            unreadable = await client.post(path, content=b'{"query": "\\ud800 NaN')
            refused(unreadable, 422, "validation_error", "a body that is no JSON")
        missing = await client.post(PLAIN, json={"session_id": "x"})
        assert "query" in missing.json()["detail"], "a 422 should name the field that is wrong"
    assert model.call_count == 1, "a request that is refused should not reach the model"


@check("model_errors")
async def test_model_errors(service: Service, model: OfflineModel, rng: random.Random) -> None:
    """Busy is 503 with Retry-After, unusable is 502; then the session goes on, whole."""
    seconds = rng.randint(3, 50)
    session = new_session()
    model.respond(echo)
    async with service() as client:
        await answered(client, "first", session)
        model.respond(Scenario(status=429, retry_after=seconds))
        busy = await client.ask("second", session)
        model.respond(Scenario(status=400))
        broken = await client.ask("second", session)
        model.respond(Scenario("Hello there.", end_early_after=1))
        cut = await client.ask("second", session)
        assert (busy.status, busy.code) == (503, "model_unavailable"), (
            "a busy model should be a 503, model_unavailable"
        )
        assert busy.headers.get("retry-after") == str(seconds), (
            "the model's Retry-After should be passed on"
        )
        assert [(reply.status, reply.code) for reply in (broken, cut)] == [
            (502, "model_error")
        ] * 2, "a model that refuses, or breaks off, should be a 502, model_error"
        for reply in (busy, broken, cut):
            silent_on_upstream(reply)
        model.respond(echo)
        await answered(client, "third", session)
        assert await messages(client, session) == [
            "first", "You said first.", "third", "You said third.",
        ], "a turn that failed should leave nothing in the conversation"  # fmt: skip


@check("model_errors")
async def test_a_silent_model(service: Service, model: OfflineModel) -> None:
    """Silence until the deadline is a 504, and the call to the model is over."""
    model.respond(Scenario(hang=True))
    async with service(REQUEST_TIMEOUT=0.5) as client:
        try:
            async with asyncio.timeout(PATIENCE):
                late = await client.ask("hello")
        except TimeoutError:
            raise AssertionError("nobody should wait longer than REQUEST_TIMEOUT") from None
        assert (late.status, late.code) == (504, "model_timeout"), (
            "silence until REQUEST_TIMEOUT should be a 504, model_timeout"
        )
        promise = "after the deadline the call to the model should be cancelled"
        await seen(model, lambda m: m.calls[0].outcome == "cancelled", promise, LEAVING)


@check("stream_errors_inside")
async def test_stream_errors_inside(
    service: Service, model: OfflineModel, rng: random.Random
) -> None:
    """What was said stays said; the last event is done and has the error; the session goes on."""
    async with service() as client:
        for fault in ("cut_after", "malformed_after", "error_in_stream_after"):
            pieces, after, session = words(rng, 6), rng.randint(1, 4), new_session()
            faults: dict[str, Any] = {fault: after}
            model.enqueue(Scenario("Good."), Scenario(pieces=pieces, **faults))
            model.respond(Scenario("Good."))
            await answered(client, "first", session, STREAM)
            reply = await client.ask("second", session, STREAM)
            assert reply.status == 200, "after the first event the status has been told already"
            assert reply.text == "".join(pieces[:after]), "what came before the fault should come"
            assert reply.code == "model_error", "the last event should carry the error"
            silent_on_upstream(reply)
            assert reply.metadata.get("session_id") == session, (
                "a last event with an error should tell what every last event tells"
            )
            await answered(client, "third", session, STREAM)
            assert await messages(client, session) == ["first", "Good.", "third", "Good."], (
                "a turn that failed on its way should leave nothing in the conversation"
            )


# --- documentation

OPERATIONS = {
    ("get", "/"): set[str](),
    ("get", "/health"): set[str](),
    ("post", PLAIN): {"400", "404", "409", "413", "422", "500", "502", "503", "504"},
    ("post", STREAM): {"404", "409", "413", "422", "500", "502", "503", "504"},
    ("get", "/api/v1/session/{session_id}"): {"404", "422", "500"},
    ("delete", "/api/v1/session/{session_id}"): {"404", "422", "500"},
    ("get", "/api/v1/sessions"): {"422", "500"},
}
"""Every endpoint, and the refusals that it may answer with."""


def resolved(node: Any, document: Any) -> Any:
    """A schema, with the first reference replaced by what it refers to."""
    if "$ref" not in node:
        return node
    target = document
    for part in node["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return target


async def operations(client: Client) -> tuple[Any, dict[tuple[str, str], Any]]:
    response = await client.get("/openapi.json")
    assert response.status_code == 200, "GET /openapi.json should be there"
    document = response.json()
    found = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert OPERATIONS.keys() <= found.keys(), "every endpoint should be in the documentation"
    return document, found


def fields(document: Any, operation: Any) -> set[str]:
    """What the documentation says is in an answer."""
    content = operation["responses"]["200"].get("content", {})
    schema = resolved(content.get("application/json", {}).get("schema", {}), document)
    return set(schema.get("properties", {}))


@check("documented")
async def test_documented(service: Service, model: OfflineModel) -> None:
    """Each endpoint has words of its own, and answers with the fields that are documented."""
    model.respond(Scenario("Good."))
    async with service() as client:
        await client.ask("hello", "mine")
        session = "/api/v1/session/{session_id}"
        answers = {
            ("get", "/"): await client.get("/"),
            ("get", "/health"): await client.get("/health"),
            ("post", PLAIN): await client.post(PLAIN, json={"query": "hello"}),
            ("get", session): await client.get(session_path("mine")),
            ("get", "/api/v1/sessions"): await client.get("/api/v1/sessions"),
            ("delete", session): await client.delete(session_path("mine")),
        }
        document, found = await operations(client)
    for place, answer in answers.items():
        name = f"{place[0].upper()} {place[1]}"
        assert answer.status_code == 200, f"{name} should answer with 200"
        assert set(answer.json()) <= fields(document, found[place]), (
            f"{name} should be documented with the fields that it answers with"
        )
    for place in OPERATIONS:
        name = f"{place[0].upper()} {place[1]}"
        assert found[place].get("summary"), f"{name} should have a summary"
        assert found[place].get("description"), f"{name} should have a description"
    parameters = found["get", "/api/v1/sessions"].get("parameters", [])
    limit: dict[str, Any] = next(
        (each["schema"] for each in parameters if each["name"] == "limit"), {}
    )
    assert [limit.get(key) for key in ("minimum", "maximum", "default")] == [1, 1000, 100], (
        "the documentation should say how many sessions a page of the list has, and may have"
    )
    names = [found[place]["operationId"] for place in OPERATIONS]
    assert len(set(names)) == len(names), "every endpoint should have a name of its own"
    for path in (PLAIN, STREAM):
        body = found["post", path].get("requestBody", {}).get("content", {})
        schema = resolved(body.get("application/json", {}).get("schema", {}), document)
        assert {"query", "session_id", "max_iterations"} <= set(schema.get("properties", {})), (
            "what may be asked should be documented field by field"
        )


@check("errors_documented")
async def test_errors_documented(service: Service, model: OfflineModel) -> None:
    """Every refusal is there, as an ErrorResponse in JSON; the stream is what it is."""
    model.respond(Scenario("Good."))
    async with service() as client:
        await answered(client)
        await answered(client, "hello", new_session(), STREAM)
        document, found = await operations(client)
    for place, statuses in OPERATIONS.items():
        name = f"{place[0].upper()} {place[1]}"
        responses = found[place]["responses"]
        assert statuses <= set(responses), f"{name} should document every refusal"
        for status in statuses:
            content = responses[status].get("content", {})
            assert "application/json" in content, f"{name} refuses in JSON, and should say so"
            schema = resolved(content["application/json"].get("schema", {}), document)
            assert set(schema.get("properties", {})) == ERROR, (
                f"{name} should document its refusals as ErrorResponse"
            )
    documented = found["post", STREAM]["responses"]["200"]
    assert list(documented.get("content", {})) == ["text/event-stream"], (
        "the stream's answer should be documented as text/event-stream, and as nothing else"
    )
