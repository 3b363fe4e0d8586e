"""The cache as clients see it: what is answered without the model, for whom, and what never is."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.offline_model import Call, OfflineModel, Scenario, ToolCall
from tests.advanced.serving_advanced import Advanced, served_advanced
from tests.advanced.watching import (
    asking_bytes,
    becomes_true,
    log_lines,
    one_client_a_worker,
    scraped,
    value,
)
from tests.talking import EITHER_WAY, PLAIN, STREAM, ask

QUESTION = "What is SSE?"


async def kept(service: Advanced) -> list[str]:
    """The keys in Redis, once all flights have landed: an answer is given before it is kept."""
    redis = service.redis
    assert redis
    found: list[str] = []

    async def all_landed() -> bool:
        found[:] = sorted(key.decode() for key in redis.ask("KEYS", "cache:*"))
        return not any(key.endswith((":flight", ":wanted")) for key in found)

    await becomes_true(all_landed)
    return found


# --- a hit


@EITHER_WAY
@pytest.mark.parametrize("first", [PLAIN, STREAM], ids=["after plain", "after stream"])
async def test_who_asks_the_same_again_costs_no_call(
    carol: httpx.AsyncClient, model: OfflineModel, path: str, first: str
) -> None:
    """The answer is a turn of the asker's own new session: it can be read, and continued."""
    model.respond(Scenario("A stream of events."))
    made = await ask(carol, QUESTION, path=first)
    reply = await ask(carol, f"  {QUESTION} ", path=path)
    assert (reply.status, reply.text) == (200, "A stream of events.")
    assert (made.metadata["cached"], reply.metadata["cached"]) == (False, True)
    assert (reply.metadata["iterations"], reply.metadata["tokens_used"]) == (0, None)
    assert model.call_count == 1
    assert reply.session_id != made.session_id

    after = await ask(carol, "And then?", reply.session_id, path)
    session = (await carol.get(f"/api/v1/session/{reply.session_id}?include=messages")).json()
    sent = [(message["role"], message["content"]) for message in model.calls[-1].messages[1:]]
    assert sent == [
        ("user", QUESTION), ("assistant", "A stream of events."), ("user", "And then?"),
    ]  # fmt: skip
    assert (after.metadata["cached"], model.call_count) == (False, 2)
    assert [message["content"] for message in session["messages"]] == [
        QUESTION, "A stream of events.", "And then?", "A stream of events.",
    ]  # fmt: skip


async def test_only_the_same_question_of_the_same_user_is_found(
    carol: httpx.AsyncClient, dave: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Another user, bound or spelling, and a question with a history, are other questions."""
    model.respond(Scenario("Good."))
    first = await ask(carol, QUESTION)
    others = [
        await ask(dave, QUESTION),
        await ask(carol, QUESTION, max_iterations=9),
        await ask(carol, QUESTION.lower()),
        await ask(carol, QUESTION, first.session_id),
    ]
    assert [reply.metadata["cached"] for reply in others] == [False] * 4
    assert model.call_count == 5
    assert (await ask(carol, QUESTION)).metadata["cached"]


async def test_what_is_kept_in_redis(
    shared_service: Advanced, carol: httpx.AsyncClient, dave: httpx.AsyncClient
) -> None:
    """Keys are a prefix and a SHA-256, values JSON for CACHE_TTL; nobody walks through all keys."""
    assert shared_service.redis
    shared_service.redis.ask("CONFIG", "RESETSTAT")
    for client in (carol, dave, carol):
        await ask(client, "hello")
    used = shared_service.redis.ask("INFO", "commandstats")
    assert "cmdstat_evalsha" in used
    assert not {"cmdstat_keys", "cmdstat_scan"} & set(used)
    found = await kept(shared_service)
    assert len(found) == 2
    for key in found:
        prefix, name, digest = key.split(":")
        assert (prefix, name, len(bytes.fromhex(digest))) == ("cache", "answer", 32)
        assert json.loads(shared_service.redis.ask("GET", key))["key"] == key
        assert 3500 < shared_service.redis.ask("TTL", key) <= 3600


# --- what is never kept


def fails_at(tool: str, arguments: dict[str, str]) -> Any:
    """The supervisor asks the analyst, whose tool call comes to nothing; both go on."""

    def behaviour(call: Call) -> Scenario:
        if call.messages[-1]["role"] == "tool":
            return Scenario("It is so.")
        if "ask_analyst" in call.tool_names:
            return Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "divide"})])
        return Scenario(tool_calls=[ToolCall(tool, arguments)])

    return behaviour


def nobody_then_an_answer(call: Call) -> Scenario:
    if call.messages[-1]["role"] == "tool":
        return Scenario("It is so.")
    return Scenario(tool_calls=[ToolCall("nobody", {})])


FLAWED: dict[str, Any] = {
    "an error": Scenario(status=500),
    "a refusal": Scenario(status=429, retry_after=3),
    "broken off": Scenario(pieces=["Half", " of"], cut_after=1),
    "out of iterations": Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "again"})]),
    "cut by the model": Scenario("Half", finish_reason="length"),
    "cut by us": Scenario(huge=120_000),
    "filtered": Scenario("Half", finish_reason="content_filter"),
    "a tool that fails": fails_at("calculate", {"expression": "1/0"}),
    "a tool without its arguments": fails_at("calculate", {}),
    "a tool that is not there": fails_at("nobody", {}),
    "a specialist that is not there": nobody_then_an_answer,
}


@pytest.mark.parametrize("name", FLAWED)
async def test_a_flawed_answer_is_not_repeated(
    shared_service: Advanced, carol: httpx.AsyncClient, model: OfflineModel, name: str
) -> None:
    """Errors, stopped answers and those on whose way a tool failed are made anew each time."""
    model.respond(FLAWED[name])
    for path in (PLAIN, STREAM):
        before = model.call_count
        await ask(carol, name, path=path, max_iterations=4)
        assert model.call_count > before
    model.respond(Scenario("Whole."))
    reply = await ask(carol, name, max_iterations=4)
    assert (reply.text, reply.metadata["cached"]) == ("Whole.", False)
    assert len(await kept(shared_service)) == 1


POISONS: dict[str, Any] = {
    "garbage": lambda key, other: b"\x80\x04\x95pickled?",
    "nothing": lambda key, other: b"",
    "null": lambda key, other: b"null",
    "a number": lambda key, other: b"7",
    "another key's": lambda key, other: other,
    "no value": lambda key, other: json.dumps({"key": key}),
    "a value that is a text": lambda key, other: json.dumps({"key": key, "value": "Owned."}),
    "a value that is empty": lambda key, other: json.dumps({"key": key, "value": {}}),
    "an answer that is a number": lambda key, other: json.dumps(
        {"key": key, "value": {"response": 7, "stopped": None, "tools": []}}
    ),
    "an answer without text": lambda key, other: json.dumps(
        {"key": key, "value": {"response": "", "stopped": None, "tools": []}}
    ),
    "huge": lambda key, other: b'{"key":"' + b"x" * 5_000_000,
    "bottomless": lambda key, other: b"[" * 100_000,
}


@EITHER_WAY
@pytest.mark.parametrize("name", POISONS)
async def test_a_poisoned_value_is_a_miss(
    shared_service: Advanced, carol: httpx.AsyncClient, model: OfflineModel, path: str, name: str
) -> None:
    """What is not an answer of ours under its own key is not believed, whoever wrote it."""
    assert shared_service.redis
    model.respond(Scenario("Good."))
    await ask(carol, "another")
    [first] = await kept(shared_service)
    other = shared_service.redis.ask("GET", first)
    await ask(carol, QUESTION)
    [key] = set(await kept(shared_service)) - {first}
    shared_service.redis.ask("SET", key, POISONS[name](key, other))
    reply = await ask(carol, QUESTION, path=path)
    assert (reply.status, reply.text) == (200, "Good.")
    assert (reply.metadata["cached"], model.call_count) == (False, 3)


async def test_a_poisoned_key_of_another_type_is_a_miss(
    shared_service: Advanced, carol: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A list, a set or a hash where an answer should be harms nobody."""
    assert shared_service.redis
    model.respond(Scenario("Good."))
    await ask(carol, QUESTION)
    [key] = await kept(shared_service)
    for command in (("RPUSH", key, "x"), ("SADD", key, "x"), ("HSET", key, "a", "b")):
        assert await kept(shared_service) == [key]
        shared_service.redis.ask("DEL", key)
        shared_service.redis.ask(*command)
        reply = await ask(carol, QUESTION)
        assert (reply.status, reply.metadata["cached"]) == (200, False)
    assert model.call_count == 4


# --- one flight


async def test_a_hundred_equal_questions_make_one_call(
    carol: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Asked at once, of two workers, plain and streamed: all get the one answer."""
    before = await scraped(carol)
    model.respond(Scenario("Only once.", first_token_delay=1.0))
    asking = [ask(carol, "hundred", path=(PLAIN, STREAM)[n % 2]) for n in range(100)]
    replies = await asyncio.gather(*asking)
    assert {(reply.status, reply.text) for reply in replies} == {(200, "Only once.")}
    assert model.call_count == 1
    assert [reply.metadata["cached"] for reply in replies].count(False) == 1
    assert len({reply.session_id for reply in replies}) == 100
    after = await scraped(carol)
    hits = [value(sample, "cache_lookups_total", result="hit") for sample in (before, after)]
    assert hits[1] - hits[0] == 99


async def test_both_workers_share_a_flight(
    shared_service: Advanced, tokens: dict[str, str], model: OfflineModel
) -> None:
    """Who asks another worker waits for the same call; a bit of an answer is never stored."""
    model.respond(Scenario(pieces=[f"{n} " for n in range(10)], token_delay=0.05))
    async with one_client_a_worker(shared_service, tokens["carol"]) as clients:
        first = asyncio.create_task(ask(clients[0], QUESTION, path=STREAM))
        await model.wait_for_async(lambda m: bool(m.calls and m.calls[0].pieces_sent))
        rest = [ask(clients[1], QUESTION, path=path) for path in (PLAIN, STREAM)]
        replies = [*await asyncio.gather(*rest), await first]
    assert {reply.text for reply in replies} == {"0 1 2 3 4 5 6 7 8 9 "}
    assert [reply.metadata["cached"] for reply in replies] == [True, True, False]
    assert model.call_count == 1


async def test_an_error_reaches_all_who_wait(
    shared_service: Advanced, tokens: dict[str, str], model: OfflineModel
) -> None:
    """In both workers, with its Retry-After, for one call; who asks later asks anew."""
    model.enqueue(Scenario(status=429, retry_after=7, first_token_delay=0.5))
    model.respond(Scenario("Good."))
    async with one_client_a_worker(shared_service, tokens["carol"]) as clients:
        asking = [
            asyncio.create_task(ask(client, QUESTION, path=path))
            for client in clients
            for path in (PLAIN, STREAM)
        ]
        replies = await asyncio.gather(*asking)
        again = await ask(clients[1], QUESTION)
    told = {(reply.status, reply.code, reply.headers["retry-after"]) for reply in replies}
    assert told == {(503, "model_unavailable", "7")}
    assert (again.status, model.call_count) == (200, 2)


def asked_over_a_socket(service: Advanced, token: str, query: str, path: str) -> socket.socket:
    connection = service.process.connect()
    connection.sendall(asking_bytes(token, query, path))
    return connection


@EITHER_WAY
async def test_a_leader_who_leaves_harms_no_follower(
    shared_service: Advanced,
    tokens: dict[str, str],
    carol: httpx.AsyncClient,
    model: OfflineModel,
    path: str,
) -> None:
    """The first who asked hangs up in mid-answer; in both workers the others get it all."""
    model.respond(Scenario(pieces=[f"{n} " for n in range(30)], token_delay=0.05))
    known = (await carol.get("/api/v1/sessions")).json()["count"]
    async with one_client_a_worker(shared_service, tokens["carol"]) as clients:
        with asked_over_a_socket(shared_service, tokens["carol"], QUESTION, path):
            await model.wait_for_async(lambda m: m.call_count == 1)
            rest = [
                asyncio.create_task(ask(client, QUESTION, path=each))
                for client in clients
                for each in (PLAIN, STREAM)
            ]

            async def all_accepted() -> bool:
                return bool((await carol.get("/api/v1/sessions")).json()["count"] == known + 5)

            await becomes_true(all_accepted)
        replies = await asyncio.gather(*rest)
    assert {reply.text for reply in replies} == {"".join(f"{n} " for n in range(30))}
    assert (model.call_count, model.calls[0].outcome) == (1, "completed")


@EITHER_WAY
async def test_the_call_stops_when_the_last_waiter_has_gone(
    shared_service: Advanced, tokens: dict[str, str], model: OfflineModel, path: str
) -> None:
    """Three wait, all leave: a second later the model is not busy with it any more."""
    model.respond(Scenario(hang=True))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(
                asked_over_a_socket(shared_service, tokens["carol"], QUESTION, path)
            )
        await model.wait_for_async(lambda m: m.call_count == 1)
    await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1.3)
    model.respond(Scenario("Good."))
    async with shared_service.client(tokens["carol"]) as client:
        reply = await ask(client, QUESTION)
    assert (reply.text, reply.metadata["cached"], model.call_count) == ("Good.", False, 2)


# --- services of our own


@pytest.fixture(scope="module")
def forgetful(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Advanced]:
    """One worker, and answers that are kept for a second."""
    state = tmp_path_factory.mktemp("forgetful")
    with served_advanced(checkout, state, CACHE_TTL="1", OPENAI_MAX_TOKENS="50000") as service:
        yield service


async def test_an_answer_is_kept_as_long_as_it_says(forgetful: Advanced) -> None:
    """CACHE_TTL holds: found within that second, and not after it."""
    async with forgetful.user() as client:
        made_before = time.monotonic()
        await ask(client, "hello")
        made_after = time.monotonic()
        assert (await ask(client, "hello")).metadata["cached"]

        async def is_gone() -> bool:
            return not (await ask(client, "hello")).metadata["cached"]

        await becomes_true(is_gone)
    gone = time.monotonic()
    assert gone - made_before >= 1
    assert gone - made_after <= 1.5


async def test_a_slow_reader_delays_no_follower(forgetful: Advanced) -> None:
    """The first who asked does not read; another gets the whole answer meanwhile."""
    forgetful.model.clear()
    forgetful.model.respond(Scenario(pieces=["x"] * 30_000))
    token = forgetful.log_in()
    before = len(asked(forgetful))
    with forgetful.process.connect(receive_buffer=4096) as stalled:
        stalled.sendall(asking_bytes(token, "long", STREAM))
        await forgetful.model.wait_for_async(lambda m: m.call_count == 1)
        async with forgetful.client(token) as client:
            replies = await asyncio.gather(
                *(ask(client, "long", path=path) for path in (PLAIN, STREAM))
            )
        ended = asked(forgetful)[before:]
        assert len(ended) == 2, "the reader was not slow"
    assert {len(reply.text) for reply in replies} == {30_000}
    assert forgetful.model.call_count == 1


def asked(service: Advanced) -> list[dict[str, Any]]:
    """The log's lines on questions; that on the login may come after its answer."""
    lines = log_lines(service.process.output)
    return [line for line in lines if line["route"] in (PLAIN, STREAM)]
