"""Every way in which a model fails, before and after its first token, and what clients are told."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from shared.offline_model import Call, OfflineModel, Scenario, ToolCall
from tests.serving import KEY, Service
from tests.talking import EITHER_WAY, PLAIN, STREAM, Reply, arriving, ask

HURRIED = True
DEADLINE = 2.0

UPSTREAM_WORDS = (
    "api key", "rate limit", "overloaded", "engine", "sign in", "<html", "doctype",
    "invalid_request", "had an error", "server_error", "refused.", "127.0.0.1:", "traceback",
    "aiohttp", "pydantic", "langchain", "langgraph", KEY,
)  # fmt: skip
"""Of the offline model's own error texts, and of the libraries between it and the client."""

BUSY = (503, "model_unavailable")
BAD = (502, "model_error")
LATE = (504, "model_timeout")
FAULTS: dict[str, tuple[Scenario, tuple[int, str], set[int]]] = {
    "429": (Scenario(status=429), BUSY, {3}),
    "429 come back": (Scenario(status=429, retry_after=7), BUSY, {1}),
    "503": (Scenario(status=503), BUSY, {3}),
    "503 come back": (Scenario(status=503, retry_after=7), BUSY, {1}),
    "529": (Scenario(status=529), BUSY, {3}),
    "500": (Scenario(status=500), BAD, {3}),
    "502": (Scenario(status=502), BAD, {3}),
    "504": (Scenario(status=504), BAD, {3}),
    "400": (Scenario(status=400), BAD, {1}),
    "400 come back": (Scenario(status=400, retry_after=7), BAD, {1}),
    "401": (Scenario(status=401), BAD, {1}),
    "403": (Scenario(status=403), BAD, {1}),
    "404": (Scenario(status=404), BAD, {1}),
    "408": (Scenario(status=408), BAD, {1}),
    "409": (Scenario(status=409), BAD, {1}),
    "418": (Scenario(status=418), BAD, {1}),
    "422": (Scenario(status=422), BAD, {1}),
    "599": (Scenario(status=599), BAD, {3}),
    "drop": (Scenario(drop=True), BAD, {3}),
    "hang": (Scenario(hang=True), LATE, {1}),
    "hang after the status": (Scenario("Hello.", hang_after=0), LATE, {1}),
    "html": (Scenario(html=True), BAD, {1}),
    "empty choices": (Scenario(empty_choices=True), BAD, {1}),
    "empty text": (Scenario(empty_text=True), BAD, {1}),
    "malformed": (Scenario("Hello.", malformed=True), BAD, {1}),
    "cut": (Scenario("Hello.", cut_after=0), BAD, {3}),
    "ends early": (Scenario("Hello.", end_early_after=0), BAD, {1}),
    "error in stream": (Scenario("Hello.", error_in_stream_after=0), BAD, {1}),
    "lone surrogate": (Scenario(pieces=["\ud800"]), BAD, {1}),
}
"""What the model does instead of a first token, what the client gets, how many calls it takes."""

ANSWER = ["Hello", " there,", " my", " friend."]
AFTER: dict[str, tuple[Scenario, str]] = {
    "hang": (Scenario(pieces=ANSWER, hang_after=2), "model_timeout"),
    "cut": (Scenario(pieces=ANSWER, cut_after=2), "model_error"),
    "ends early": (Scenario(pieces=ANSWER, end_early_after=2), "model_error"),
    "malformed": (Scenario(pieces=ANSWER, malformed_after=2), "model_error"),
    "error in stream": (Scenario(pieces=ANSWER, error_in_stream_after=2), "model_error"),
    "lone surrogate": (Scenario(pieces=["Hello", " there,", "\udc00"]), "model_error"),
}
"""What goes wrong after two tokens, and what the last event says."""


def silent_on_upstream(reply: Reply) -> None:
    said = (reply.raw.decode() + str(reply.headers)).lower()
    assert [word for word in UPSTREAM_WORDS if word.lower() in said] == []


async def works_again(client: httpx.AsyncClient, model: OfflineModel, session_id: str) -> None:
    """The session's next turn is answered, and its history has whole turns only."""
    model.clear()
    model.respond(Scenario("All is well."))
    reply = await ask(client, "third", session_id)
    session = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    sent = [(message["role"], message["content"]) for message in model.calls[0].messages[1:]]
    assert (reply.status, reply.text) == (200, "All is well.")
    assert sent == [("user", "first"), ("assistant", "Good."), ("user", "third")]
    assert [message["content"] for message in session["messages"]] == [
        "first", "Good.", "third", "All is well.",
    ]  # fmt: skip


@EITHER_WAY
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_before_the_first_token_is_a_status(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str, name: str
) -> None:
    """The contract's status, within the deadline, in our words; then the session works on."""
    scenario, (status, code), calls = FAULTS[name]
    model.enqueue(Scenario("Good."))
    await ask(client, "first", session_id)
    model.respond(scenario)
    before = time.monotonic()
    reply = await ask(client, "second", session_id, path)
    took = time.monotonic() - before
    assert (reply.status, reply.code) == (status, code)
    assert took < DEADLINE + 0.8
    assert ("retry-after" in reply.headers) == (status == 503)
    silent_on_upstream(reply)
    assert model.call_count - 1 in calls
    await works_again(client, model, session_id)


@pytest.mark.parametrize("name", AFTER)
async def test_a_fault_after_the_first_token_is_the_last_event(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, name: str
) -> None:
    """What was said stays said; the last event has the error; nothing is asked twice or stored."""
    scenario, code = AFTER[name]
    model.enqueue(Scenario("Good."))
    await ask(client, "first", session_id)
    model.respond(scenario)
    before = time.monotonic()
    reply = await ask(client, "second", session_id, STREAM)
    took = time.monotonic() - before
    assert (reply.status, reply.code, reply.text) == (200, code, "Hello there,")
    assert reply.metadata["stopped"] is None
    assert took < DEADLINE + 0.8
    silent_on_upstream(reply)
    assert model.call_count == 2
    await works_again(client, model, session_id)


@pytest.mark.parametrize("name", AFTER)
async def test_a_plain_answer_that_breaks_off_is_a_status(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, name: str
) -> None:
    """Half an answer is none: where nothing was told yet, it is a 502 or a 504."""
    scenario, code = AFTER[name]
    model.enqueue(Scenario("Good."))
    await ask(client, "first", session_id)
    model.respond(scenario)
    reply = await ask(client, "second", session_id)
    assert (reply.status, reply.code) == ({"model_error": 502, "model_timeout": 504}[code], code)
    silent_on_upstream(reply)
    await works_again(client, model, session_id)


@EITHER_WAY
@pytest.mark.parametrize("name", ["429", "500", "hang", "cut", "html", "empty text"])
async def test_a_fault_of_a_specialist_s_call(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str, name: str
) -> None:
    """A fault behind a tool call is a status for a plain query, and for a stream its last event."""
    scenario, (status, code), _ = FAULTS[name]
    model.enqueue(
        Scenario("Good."), Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "1+1"})])
    )
    await ask(client, "first", session_id)
    model.respond(scenario)
    reply = await ask(client, "second", session_id, path)
    assert (reply.status, reply.code) == (200 if path == STREAM else status, code)
    silent_on_upstream(reply)
    await works_again(client, model, session_id)


@EITHER_WAY
@pytest.mark.parametrize(
    "fault", [Scenario(status=429), Scenario(status=500), Scenario(status=503)]
)
async def test_a_passing_fault_is_not_noticed(
    client: httpx.AsyncClient, model: OfflineModel, path: str, fault: Scenario
) -> None:
    """Two busy answers, then a good one: the client gets that, and it counts as one call."""
    model.enqueue(fault, fault, Scenario("Good."))
    reply = await ask(client, "hello", path=path)
    assert (reply.status, reply.text) == (200, "Good.")
    assert reply.metadata["iterations"] == 1
    assert model.call_count == 3


@contextmanager
def unreachable(model: OfflineModel) -> Iterator[None]:
    model.stop()
    try:
        yield
    finally:
        model.start()


@EITHER_WAY
async def test_a_model_that_is_not_there(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str
) -> None:
    """Connection refused is a 503 with Retry-After; once the model is back, the session works."""
    model.enqueue(Scenario("Good."))
    await ask(client, "first", session_id)
    with unreachable(model):
        reply = await ask(client, "second", session_id, path)
    assert (reply.status, reply.code) == BUSY
    assert int(reply.headers["retry-after"]) >= 1
    silent_on_upstream(reply)
    await works_again(client, model, session_id)


async def test_a_model_that_goes_away_in_the_middle(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """A model that dies while it answers is the stream's last event."""
    model.enqueue(Scenario("Good."))
    await ask(client, "first", session_id)
    model.respond(Scenario(pieces=["Hello"], hang_after=1))
    async with client.stream(
        "POST", STREAM, json={"query": "second", "session_id": session_id}
    ) as response:
        events = arriving(response)
        first = await anext(events)
        with unreachable(model):
            last = [event async for event in events][-1]
    assert (first["chunk"], last["done"]) == ("Hello", True)
    assert last["metadata"]["error"]["code"] == "model_error"
    await works_again(client, model, session_id)


# --- Retry-After


@EITHER_WAY
@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [(7, 7), ("7", 7), ("0", 1), ("-5", 1), ("1.2", 2), ("99999999999", 3600), ("1e300", 3600)],
)
async def test_the_model_s_retry_after_is_passed_on(
    client: httpx.AsyncClient, model: OfflineModel, path: str, sent: int | str, passed_on: int
) -> None:
    """When the model says when to come back, the client is told, in whole seconds, at once."""
    model.respond(Scenario(status=429, retry_after=sent))
    before = time.monotonic()
    reply = await ask(client, "hello", path=path)
    assert (reply.status, reply.code) == BUSY
    assert reply.headers.get_list("retry-after") == [str(passed_on)]
    assert time.monotonic() - before < 1
    assert model.call_count == 1


async def test_a_retry_after_that_is_a_date(client: httpx.AsyncClient, model: OfflineModel) -> None:
    """A date is passed on as the seconds until then."""
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    model.respond(Scenario(status=503, retry_after=then))
    reply = await ask(client, "hello")
    assert 90 <= int(reply.headers["retry-after"]) <= 100
    assert model.call_count == 1


@pytest.mark.parametrize(
    "hostile",
    ["", "soon", "nan", "inf", "-inf", "7, 8", "0x10", "Thu, 99 Xxx 2026 25:61:61 GMT",
     "Fri, 01 Jan 99999 00:00:00 GMT", "Fri, 01 Jan 99999999999999999999 00:00:00 GMT",
     "Fri, 01 Jan 2027 00:00:00", "Fri, 01 Jan 2027 00:00:00 +99999999999999999999",
     "Mon, 01 Jan 0001 00:00:00 +2359", "9" * 5000, "\xff", "1" + " " * 5000 + "2"],
)  # fmt: skip
async def test_a_hostile_retry_after_harms_nobody(
    client: httpx.AsyncClient, model: OfflineModel, hostile: str
) -> None:
    """Whatever stands in Retry-After, the client gets a 503 with a sane number of seconds."""
    model.respond(Scenario(status=429, retry_after=hostile))
    reply = await ask(client, "hello")
    assert (reply.status, reply.code) == BUSY
    assert 1 <= int(reply.headers["retry-after"]) <= 3600


# --- answers without end


def always_a_tool(call: Call) -> Scenario:
    """Whoever asks is told to call a tool of theirs, the supervisor both."""
    arguments = {"task": "again", "query": "again", "expression": "1+1"}
    return Scenario(tool_calls=[ToolCall(name, arguments) for name in call.tool_names])


def always_nobody(_: Call) -> Scenario:
    return Scenario(tool_calls=[ToolCall("nobody", {"task": "again"})])


def in_circles(call: Call) -> Scenario | None:
    """The supervisor asks on and on; the specialists report."""
    if "ask_analyst" in call.tool_names:
        return Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "again"})])
    return Scenario("My report.")


@EITHER_WAY
@pytest.mark.parametrize("bound", [1, 2, 3, 50])
@pytest.mark.parametrize("behaviour", [always_a_tool, always_nobody, in_circles])
async def test_max_iterations_bounds_the_model_calls(
    client: httpx.AsyncClient,
    model: OfflineModel,
    path: str,
    bound: int,
    behaviour: Callable[[Call], Scenario | None],
) -> None:
    """A loop of tool calls ends after exactly max_iterations calls, with a sentence."""
    model.respond(behaviour)
    reply = await ask(client, "hello", path=path, max_iterations=bound)
    assert reply.status == 200
    assert reply.text
    assert reply.metadata["stopped"] == "max_iterations"
    assert reply.metadata["iterations"] == model.call_count == bound


async def test_the_bound_is_ten_unless_said_otherwise(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Without max_iterations a turn costs ten calls at most."""
    model.respond(always_nobody)
    assert (await ask(client, "hello")).metadata["iterations"] == model.call_count == 10


async def test_the_sentence_at_the_bound_is_fixed(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str
) -> None:
    """Plain and streamed, whatever the question, the sentence is the same, and is stored."""
    model.respond(always_nobody)
    plain = await ask(client, "one", session_id, max_iterations=1)
    stream = await ask(client, "two", session_id, STREAM, max_iterations=2)
    session = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    assert plain.text == stream.text
    assert session["messages"][1]["content"] == session["messages"][3]["content"] == plain.text


@EITHER_WAY
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(huge=200_000),
        Scenario(pieces=["x" * 99_999, "yz", "!"]),
        Scenario(pieces=["x" * 250_000]),
        Scenario(pieces=["\U0001f642" * 60_000] * 2),
    ],
    ids=["small pieces", "at the edge", "one piece", "emoji"],
)
async def test_a_huge_answer_is_capped(
    client: httpx.AsyncClient, model: OfflineModel, session_id: str, path: str, scenario: Scenario
) -> None:
    """An answer ends at 100,000 characters and says so; told and stored are the same."""
    model.respond(scenario)
    reply = await ask(client, "hello", session_id, path)
    session = (await client.get(f"/api/v1/session/{session_id}?include=messages")).json()
    answer = scenario.answer()
    assert answer
    assert reply.status == 200
    assert reply.metadata["stopped"] == "max_length"
    assert len(reply.text) == 100_000
    assert reply.text == "".join(map(str, answer.pieces))[:100_000]
    assert session["messages"][1]["content"] == reply.text


@EITHER_WAY
async def test_an_answer_of_the_full_length_is_whole(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """Exactly 100,000 characters are an answer like any other."""
    model.respond(Scenario(huge=100_000))
    reply = await ask(client, "hello", path=path)
    assert (len(reply.text), reply.metadata["stopped"]) == (100_000, None)


@EITHER_WAY
async def test_an_answer_that_the_model_cut_says_so(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """The model's own limit of length is told as `max_length`, too."""
    model.respond(Scenario("Hello and", finish_reason="length"))
    reply = await ask(client, "hello", path=path)
    assert (reply.text, reply.metadata["stopped"]) == ("Hello and", "max_length")


# --- tool calls that make no sense

ARGUMENTS = [
    "", "{not json", "null", "{}", '{"task": 5}', '{"task": ["x"], "query": ["x"]}',
    '{"task": NaN, "query": NaN, "expression": NaN}',
    '{"task": {"x": Infinity}, "query": -Infinity, "expression": 1e999}',
    '{"task": "\\ud800", "query": "\\ud800", "expression": "\\ud800"}', '{"\\udfff": 1}',
    '{"task": "x", "query": "x", "expression": "1", "surplus": true}',
    '{"expression": ' + "9" * 5000 + "}", '{"task": ' + "9" * 50 + "}", "[" * 5000,
    '{"x": ' * 500 + "1" + "}" * 500, '{"task": "", "query": "\\u0000", "expression": ""}',
]  # fmt: skip
"""Arguments of a tool call: broken, of the wrong type, or of the right one and hostile."""

NO_OBJECT = ["[1, 2]", '"text"', "5", "true"]
HANDED_OVER = {
    "supervisor": ([], "ask_analyst"),
    "researcher": (
        [Scenario(tool_calls=[ToolCall("ask_researcher", {"task": "x"})])],
        "search_handbook",
    ),
    "analyst": ([Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "x"})])], "calculate"),
}
"""What the model says first, so that this one is asked; and this one's tool."""


def short(text: object) -> str:
    return str(text)[:30].encode("unicode_escape").decode()


@EITHER_WAY
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=short)
@pytest.mark.parametrize("who", HANDED_OVER)
async def test_invalid_tool_arguments(
    client: httpx.AsyncClient, model: OfflineModel, path: str, arguments: str, who: str
) -> None:
    """Arguments that are no JSON or do not fit are told to the model, which then answers."""
    before, tool = HANDED_OVER[who]
    model.enqueue(*before, Scenario(tool_calls=[ToolCall(tool, arguments)]))
    model.respond(Scenario("Understood."))
    reply = await ask(client, "hello", path=path)
    assert reply.status == 200, reply.raw
    assert reply.text == "Understood.", reply.raw
    results = [m for call in model.calls for m in call.messages if m["role"] == "tool"]
    assert results
    assert all(result["tool_call_id"] for result in results)


@EITHER_WAY
@pytest.mark.parametrize("arguments", NO_OBJECT)
@pytest.mark.parametrize("who", HANDED_OVER)
async def test_tool_arguments_that_are_no_object(
    client: httpx.AsyncClient, model: OfflineModel, path: str, arguments: str, who: str
) -> None:
    """JSON that is no object is told to the model, or is an unusable answer: a 502."""
    before, tool = HANDED_OVER[who]
    model.enqueue(*before, Scenario(tool_calls=[ToolCall(tool, arguments)]))
    model.respond(Scenario("Understood."))
    reply = await ask(client, "hello", path=path)
    if reply.status == 200 and "error" not in reply.metadata:
        assert reply.text == "Understood."
    else:
        assert reply.code == "model_error"


@EITHER_WAY
@pytest.mark.parametrize(
    "name", ["nobody", "calculate", "__class__", "ask_researcher ", "a b\n", "x" * 5000]
)
async def test_unknown_tool_names(
    client: httpx.AsyncClient, model: OfflineModel, path: str, name: str
) -> None:
    """A tool that does not exist is answered with an excuse, and the model goes on."""
    model.enqueue(Scenario(tool_calls=[ToolCall(name, {"task": "x"})]))
    model.respond(Scenario("Understood."))
    reply = await ask(client, "hello", path=path)
    assert (reply.status, reply.text) == (200, "Understood.")
    roles = [message["role"] for message in model.calls[-1].messages]
    assert roles == ["system", "user", "assistant", "tool"]


@EITHER_WAY
async def test_a_specialist_s_unknown_tool(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """A specialist that calls another one's tool is told so; the turn goes on."""
    model.enqueue(
        Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "x"})]),
        Scenario(tool_calls=[ToolCall("search_handbook", {"query": "x"})]),
    )
    model.respond(Scenario("Understood."))
    reply = await ask(client, "hello", path=path)
    assert (reply.status, reply.text, model.call_count) == (200, "Understood.", 4)


@EITHER_WAY
async def test_several_tool_calls_at_once(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """Eight tool calls in one answer stay within max_iterations, side by side as they are."""
    model.enqueue(Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "1+1"})] * 8))
    model.respond(Scenario("Understood."))
    reply = await ask(client, "hello", path=path, max_iterations=5)
    assert (reply.status, reply.metadata["stopped"]) == (200, "max_iterations")
    assert reply.metadata["iterations"] == model.call_count == 5


@EITHER_WAY
async def test_too_many_tool_calls_at_once(
    client: httpx.AsyncClient, model: OfflineModel, path: str
) -> None:
    """A thousand tool calls in one answer are an unusable answer, not a thousand model calls."""
    model.respond(Scenario(tool_calls=[ToolCall("ask_analyst", {"task": "1+1"})] * 1000))
    reply = await ask(client, "hello", path=path)
    assert (reply.status, reply.code) == BAD
    assert model.call_count <= 3


# --- a slow model is nobody else's business


async def test_a_hanging_model_delays_no_other_request(
    client: httpx.AsyncClient, model: OfflineModel, service: Service
) -> None:
    """While twenty calls hang, health, sessions and another question are answered at once."""

    def hang_or_answer(call: Call) -> Scenario:
        return Scenario(hang=True) if "hang" in call.messages[-1]["content"] else Scenario("Good.")

    model.respond(hang_or_answer)
    paths = [PLAIN, STREAM] * 10
    hanging = [asyncio.create_task(ask(client, "hang", path=path)) for path in paths]
    await model.wait_for_async(lambda m: m.call_count == 20)
    before = time.monotonic()
    answers = [await client.get("/health"), await client.get("/api/v1/sessions")]
    reply = await ask(client, "hello")
    took = time.monotonic() - before
    assert not any(task.done() for task in hanging)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (reply.status, reply.text) == (200, "Good.")
    assert took < 1
    assert {(late.status, late.code) for late in await asyncio.gather(*hanging)} == {LATE}


async def test_a_deadline_stops_the_model(client: httpx.AsyncClient, model: OfflineModel) -> None:
    """At the deadline the model's call is cancelled, not left behind."""
    model.respond(Scenario(hang=True))
    reply = await ask(client, "hello")
    assert (reply.status, reply.code) == LATE
    await model.wait_for_async(lambda m: m.calls[0].outcome == "cancelled", 1.0)


async def test_the_deadline_is_for_the_whole_turn(
    client: httpx.AsyncClient, model: OfflineModel
) -> None:
    """A model that never pauses long but never ends is stopped at the deadline."""
    model.respond(Scenario(huge=90_000, token_delay=0.1))
    before = time.monotonic()
    reply = await ask(client, "hello", path=STREAM)
    assert (reply.status, reply.code) == (200, "model_timeout")
    assert DEADLINE - 0.2 < time.monotonic() - before < DEADLINE + 0.8
