"""The graded suite of exercise 3: how long a turn may take, and how long a stream may be silent."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from random import Random
from typing import TypeVar
from uuid import uuid4

import httpx

from grader.judge import PLAIN, STREAM, Client, Reply, arriving, check, read_reply
from grader.judge.service import Service
from shared.offline_model import OfflineModel, Scenario

GRACE = 6.0
"""Seconds that a busy machine may need beyond a deadline."""

ANSWER = ["Once", " upon", " a", " time", " there", " was"]
EACH = (PLAIN, STREAM)
HANGS = Scenario(hang=True)
GOOD = Scenario("Good.")

Result = TypeVar("Result")


def new_session() -> str:
    return f"s-{uuid4()}"


async def ask(
    client: Client,
    query: str,
    session_id: str | None = None,
    path: str = PLAIN,
    wish: str | None = None,
) -> Reply:
    headers = {} if wish is None else {"Request-Timeout": wish}
    body = {"query": query, "session_id": session_id}
    async with client.stream("POST", path, json=body, headers=headers) as response:
        return await read_reply(response)


async def promptly(asked: Awaitable[Result], seconds: float, promise: str) -> Result:
    """What was asked for, if it comes before `seconds` and GRACE are over."""
    try:
        async with asyncio.timeout(seconds + GRACE):
            return await asked
    except TimeoutError:
        raise AssertionError(promise) from None


async def warm_up(client: Client, model: OfflineModel, path: str = PLAIN) -> None:
    """A first turn takes longer than those after it."""
    model.enqueue(GOOD)
    reply = await ask(client, "hello", path=path)
    assert reply.status == 200, "a question that the model answers should be answered"
    model.clear()


async def last_call_cancelled(model: OfflineModel, promise: str) -> None:
    try:
        await model.wait_for_async(lambda m: m.calls[-1].outcome == "cancelled", GRACE)
    except TimeoutError:
        raise AssertionError(promise) from None


@check("query_deadline")
async def test_query_deadline(service: Service, model: OfflineModel, rng: Random) -> None:
    """A query that the model does not answer is a 504 at the deadline, not before and not later."""
    seconds = round(rng.uniform(0.4, 0.6), 2)
    model.respond(HANGS)
    async with service(QUERY_TIMEOUT=seconds) as client:
        before = time.monotonic()
        reply = await promptly(ask(client, "hello"), seconds, "a query should end at its deadline")
        took = time.monotonic() - before
    assert reply.status == 504, "a query that ran out of time should be answered with 504"
    assert reply.code == "model_timeout", "the code of a missed deadline should be model_timeout"
    assert took > 0.9 * seconds, "a query should be given all of its time"


@check("query_stops_the_model")
async def test_query_stops_the_model(service: Service, model: OfflineModel) -> None:
    """When a query has run out of time, its model call is cancelled, and not made again."""
    model.respond(Scenario(pieces=ANSWER, hang_after=1))
    async with service(QUERY_TIMEOUT=0.4) as client:
        await promptly(ask(client, "hello"), 0.4, "a query should end at its deadline")
        await last_call_cancelled(model, "the model's call should end with the query")
    assert model.call_count == 1, "a query that ran out of time should not be asked again"


@check("session_usable")
async def test_session_usable(service: Service, model: OfflineModel) -> None:
    """After a query that ran out of time the session goes on, as if it had not been asked."""
    model.respond(GOOD)
    async with service(QUERY_TIMEOUT=0.5) as client:
        session = new_session()
        first = await ask(client, "first", session, STREAM)
        assert (first.status, first.text) == (200, "Good."), "a stream should be answered"
        model.respond(HANGS)
        await promptly(ask(client, "second", session), 0.5, "a query should end at its deadline")
        model.respond(GOOD)
        third = await promptly(
            ask(client, "third", session, STREAM),
            0,
            "the next question of the session should be answered at once",
        )
        assert third.text == "Good.", "the next question of the session should be answered"
        said = [message["content"] for message in model.calls[-1].messages[1:]]
        assert said == ["first", "Good.", "third"], (
            "the model should be told of whole turns only, and of the new question"
        )


@check("waiting_counts")
async def test_waiting_counts(service: Service, model: OfflineModel) -> None:
    """A query that waits for an earlier turn of its session has a deadline all the same."""
    model.respond(Scenario(pieces=ANSWER, hang_after=1))
    async with service(QUERY_TIMEOUT=0.4) as client:
        session = new_session()
        body = {"query": "first", "session_id": session}
        async with client.stream("POST", STREAM, json=body) as response:
            events = arriving(response)
            first = await anext(events)
            assert first["chunk"] == "Once", "a stream should carry the model's words"
            second = await promptly(
                ask(client, "second", session),
                0.4,
                "the deadline should run from when the question came in, also while it waits",
            )
            assert second.status == 504, "a query that ran out of time should be answered with 504"
            assert model.call_count == 1, "a query that never had its turn reaches no model"


@check("other_errors_stay")
async def test_other_errors_stay(service: Service, model: OfflineModel) -> None:
    """What goes wrong for another reason than time is told as what it is."""
    async with service(QUERY_TIMEOUT=0.8) as client:
        await warm_up(client, model, STREAM)
        model.respond(Scenario(status=503, retry_after=7))
        for path in (STREAM, PLAIN):
            reply = await ask(client, "hello", path=path)
            assert reply.status == 503, "a model that is busy should be a 503"
            assert reply.headers.get("Retry-After") == "7", "its Retry-After should be passed on"
        model.respond(Scenario(pieces=ANSWER, cut_after=2))
        reply = await ask(client, "hello", path=STREAM)
        assert reply.code == "model_error", "an answer that breaks off should be a model_error"
        model.respond(HANGS)
        reply = await promptly(ask(client, "hello"), 0.8, "a query should end at its deadline")
        assert reply.code == "model_timeout", "running out of time should be a model_timeout"


@check("stream_deadline")
async def test_stream_deadline(service: Service, model: OfflineModel) -> None:
    """A stream that goes on and on is ended at its deadline, by an event that says so."""
    async with service(STREAM_TIMEOUT=1, QUERY_TIMEOUT=30) as client:
        await warm_up(client, model)
        words = [f"w{number} " for number in range(400)]
        model.respond(Scenario(pieces=words, token_delay=0.05))
        before = time.monotonic()
        reply = await promptly(
            ask(client, "hello", path=STREAM), 1, "a stream should end at its deadline"
        )
        took = time.monotonic() - before
    assert reply.status == 200, "a stream whose first word came in time should begin"
    assert reply.code == "model_timeout", "its last event should hold the error model_timeout"
    assert reply.text, "what came before the deadline should have been passed on"
    assert "".join(words).startswith(reply.text), "and nothing but that"
    assert took > 0.9, "a stream should be given all of its time"


@check("stream_stops_the_model")
async def test_stream_stops_the_model(service: Service, model: OfflineModel) -> None:
    """When a stream has been ended, its model call is cancelled."""
    async with service(STREAM_TIMEOUT=0.8, STREAM_IDLE=0.8) as client:
        await warm_up(client, model)
        model.respond(Scenario(pieces=ANSWER, hang_after=2))
        body = {"query": "hello"}

        async def read() -> None:
            with suppress(httpx.HTTPError):
                async with client.stream("POST", STREAM, json=body) as response:
                    await response.aread()

        await promptly(read(), 0.8, "a stream should end at its deadline")
        await last_call_cancelled(model, "the model's call should end with the stream")


@check("idle_ends")
async def test_idle_ends(service: Service, model: OfflineModel, rng: Random) -> None:
    """A stream in which nothing comes for too long is ended by an event that says so."""
    count = rng.randint(2, 5)
    async with service(STREAM_IDLE=0.8, STREAM_TIMEOUT=60) as client:
        await warm_up(client, model)
        model.respond(Scenario(pieces=ANSWER, hang_after=count))
        reply = await promptly(
            ask(client, "hello", path=STREAM), 0.8, "a silent stream should end at the idle limit"
        )
    assert reply.status == 200, "a stream whose first word came in time should begin"
    assert reply.code == "model_timeout", "its last event should hold the error model_timeout"
    assert reply.text == "".join(ANSWER[:count]), "what the model said should have been passed on"


@check("slow_but_steady")
async def test_slow_but_steady(service: Service, model: OfflineModel) -> None:
    """A slow answer, whose pauses are shorter than the idle limit, comes whole."""
    async with service(STREAM_IDLE=1, STREAM_TIMEOUT=60) as client:
        await warm_up(client, model)
        steady = Scenario(pieces=ANSWER, token_delay=0.3)
        silent = Scenario(pieces=ANSWER, hang_after=1)
        model.respond(lambda call: steady if call.messages[-1]["content"] == "go on" else silent)
        whole, broken = await promptly(
            asyncio.gather(ask(client, "go on", path=STREAM), ask(client, "stop", path=STREAM)),
            1.5,
            "a slow answer should come to its end, and a silent one should be ended",
        )
    assert whole.text == "".join(ANSWER), "all that the model said should have been passed on"
    assert "error" not in whole.metadata, "an answer that is slow but steady is no error"
    assert broken.text == ANSWER[0], "a stream should end when nothing more comes"


@check("silent_start")
async def test_silent_start(service: Service, model: OfflineModel) -> None:
    """A stream in which nothing ever comes is a 504, before its first byte."""
    model.respond(HANGS)
    async with service(STREAM_IDLE=0.4, STREAM_TIMEOUT=60) as client:
        reply = await promptly(
            ask(client, "hello", path=STREAM), 0.4, "the idle limit should hold from the start"
        )
    assert reply.status == 504, "before the first event, running out of time should be a 504"
    assert reply.code == "model_timeout", "the code of a missed deadline should be model_timeout"


@check("last_event")
async def test_last_event(service: Service, model: OfflineModel) -> None:
    """The last event of a stream that was ended names its session, which can go on."""
    async with service(STREAM_IDLE=0.8, STREAM_TIMEOUT=0.8) as client:
        await warm_up(client, model)
        model.respond(Scenario(pieces=ANSWER, hang_after=2))
        reply = await promptly(
            ask(client, "hello", path=STREAM), 0.8, "a stream should end at its deadline"
        )
        assert reply.code == "model_timeout", "its last event should hold the error model_timeout"
        session = reply.metadata.get("session_id")
        assert session, "its last event should say which session it belongs to"
        model.respond(GOOD)
        again = await promptly(
            ask(client, "again", str(session)),
            0,
            "the next question of the session should be answered at once",
        )
    assert (again.status, again.session_id) == (200, session), "and it should belong to it"


@check("less_on_request")
async def test_less_on_request(service: Service, model: OfflineModel, rng: Random) -> None:
    """A client that asks for less time gets less, for a query and for a stream."""
    wish = f"{rng.uniform(0.3, 0.5):.2f}"
    model.respond(HANGS)
    async with service(QUERY_TIMEOUT=60, STREAM_TIMEOUT=60, STREAM_IDLE=60) as client:
        replies = await promptly(
            asyncio.gather(*(ask(client, "hello", path=path, wish=wish) for path in EACH)),
            float(wish),
            "a turn should end after as many seconds as Request-Timeout asked for",
        )
    assert [reply.status for reply in replies] == [504] * 2, (
        "running out of the time asked for should be a 504"
    )


@check("never_more")
async def test_never_more(service: Service, model: OfflineModel, rng: Random) -> None:
    """A client that asks for more time than the service gives gets what the service gives."""
    model.respond(HANGS)
    wishes = [str(rng.randint(20, 1000)), "1e9", "inf"]
    async with service(QUERY_TIMEOUT=0.4, STREAM_TIMEOUT=0.4) as client:
        asked = [ask(client, "hello", path=path, wish=wish) for path in EACH for wish in wishes]
        replies = await promptly(
            asyncio.gather(*asked),
            0.4,
            "a turn should end at the service's deadline, whatever Request-Timeout asks for",
        )
    assert [reply.status for reply in replies] == [504] * 6, (
        "running out of time should be a 504, whatever Request-Timeout asked for"
    )


@check("bad_wishes")
async def test_bad_wishes(service: Service, model: OfflineModel, rng: Random) -> None:
    """A wish that is no number of seconds above 0 is refused, and reaches no model."""
    model.respond(GOOD)
    async with service() as client:
        good = await ask(client, "hello", wish=f"{rng.uniform(20, 90):.1f}")
        assert good.status == 200, "a number of seconds should be accepted"
        for wish in ("0", f"-{rng.randint(1, 9)}", "nan", "soon", "", "-inf"):
            reply = await ask(client, "hello", path=rng.choice([PLAIN, STREAM]), wish=wish)
            assert reply.status == 422, "a Request-Timeout that is none should be refused with 422"
            assert reply.code == "validation_error", "its code should be validation_error"
    assert model.call_count == 1, "a refused question should not reach the model"


@check("nobody_else_waits")
async def test_nobody_else_waits(service: Service, model: OfflineModel) -> None:
    """While one turn waits for its deadline, other sessions are answered, and end in time."""
    model.enqueue(HANGS)
    async with service(QUERY_TIMEOUT=60, STREAM_TIMEOUT=0.5, STREAM_IDLE=0.5) as client:
        slow = asyncio.create_task(ask(client, "slow"))
        await model.wait_for_async(lambda m: m.call_count == 1, GRACE)
        model.respond(GOOD)
        quick = await promptly(
            ask(client, "quick"), 0, "a question of another session should be answered at once"
        )
        assert quick.text == "Good.", "a question of another session should be answered"
        model.respond(HANGS)
        silent = await promptly(
            ask(client, "silent", path=STREAM), 0.5, "a silent stream should end in time"
        )
        assert silent.code == "model_timeout", "the code of a missed deadline is model_timeout"
        assert not slow.done(), "a query should be given all of its time"
        slow.cancel()
        await asyncio.wait([slow])
