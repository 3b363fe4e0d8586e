"""The graded suite of exercise 1: what a collector is sent, and that no request waits for it."""

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from grader.judge import PLAIN, STREAM, Client, arriving, check
from grader.judge.service import Service
from grader.judge.traces import Collector, Span
from shared.offline_model import Call, OfflineModel, Scenario, ToolCall, Usage

LOGIN, ALIVE = "/api/v1/auth/login", "/health/live"
SESSIONS, SESSION = "/api/v1/sessions", "/api/v1/session/{session_id}"
CAROL = {"username": "carol", "password": "carols-own-password"}
TWO_PARTS = "What is 17.5% of 2480, minus 12? And how do I stream tokens with FastAPI?"
TWO_OTHERS = "What is 12% of 995, plus 4? And how do I limit requests with FastAPI?"
ARRIVES = 8.0
"""Seconds for which a span is waited for: a BatchSpanProcessor's own pause is 5."""

SOON = 3.0
"""Seconds, where a twentieth of one is promised: a busy machine is late."""

STOPS = 6.0
"""Seconds: the five that are promised, and one for a busy machine."""

TOOLS = {"search_handbook": "researcher", "calculate": "analyst"}

NODES = {"supervisor", *TOOLS.values()}

Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def traced(service: Service, otlp: Collector) -> Serve:
    """The submission, with a collector, and with carol logged in: the first request of all."""

    @asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[Client]:
        async with service(forward=otlp.forward, **settings) as client:
            await log_in(client)
            yield client

    return serve


async def log_in(client: Client) -> None:
    reply = await client.post(LOGIN, data=CAROL)
    assert reply.status_code == 200, "with the tracing in place, carol can log in as before"
    client.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"


# --- looking at spans


def is_request(span: Span) -> bool:
    """One that the service got, not one that it sent."""
    return span.kind == "server" or (
        "http.request.method" in span.attributes and span.kind != "client"
    )


def in_order(spans: list[Span]) -> list[Span]:
    """The requests' spans, as the requests began. The first one is the login."""
    return sorted((span for span in spans if is_request(span)), key=lambda span: span.start)


def doing(spans: list[Span], operation: str) -> list[Span]:
    """As they began."""
    found = [s for s in spans if s.attributes.get("gen_ai.operation.name") == operation]
    return sorted(found, key=lambda span: span.start)


def node_runs(spans: list[Span]) -> list[Span]:
    """As they began. A span around the whole graph is an agent's, too, and no node's."""
    return [span for span in doing(spans, "invoke_agent") if node_of(span) in NODES]


def node_of(span: Span) -> str:
    return str(span.attributes.get("gen_ai.agent.name", ""))


def around(span: Span, spans: list[Span]) -> list[Span]:
    """The span's ancestors, the nearest first."""
    by_id = {(each.trace_id, each.span_id): each for each in spans}
    above = []
    while parent := by_id.pop((span.trace_id, span.parent_id), None):
        above.append(parent)
        span = parent
    return above


def agent_around(span: Span, spans: list[Span]) -> str | None:
    """The nearest node of the graph that a span lies in."""
    return next((node_of(each) for each in around(span, spans) if node_of(each)), None)


def is_marked(span: Span) -> bool:
    return span.status == "error" and bool(span.attributes.get("error.type"))


def is_clean(span: Span) -> bool:
    return span.status != "error" and "error.type" not in span.attributes


async def everything(client: Client, otlp: Collector) -> list[Span]:
    """All spans of what was asked until now: one more request is made, and its span comes last."""
    began = time.time()
    await client.get(ALIVE)
    await came(otlp, lambda spans: any(is_request(s) and s.start >= began for s in spans))
    assert not otlp.unreadable, "what is sent to the collector can be read as OTLP"
    return [span for span in list(otlp.spans) if span.start < began]


async def came(
    otlp: Collector, found: Callable[[list[Span]], bool], within: float = ARRIVES
) -> bool:
    return await asyncio.to_thread(otlp.wait_for, found, within)


def traceparent(rng: Random, *, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """A caller's trace and span, and the header that tells of them (W3C Trace Context)."""
    trace_id, span_id = f"{rng.getrandbits(128):032x}", f"{rng.getrandbits(64):016x}"
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-0{int(sampled)}"}


# --- one span a request


@check("continues_trace")
async def test_continues_trace(traced: Serve, otlp: Collector, rng: Random) -> None:
    """A caller's trace goes on; without a caller a new one begins; not sampled is not sent."""
    trace_id, caller, header = traceparent(rng)
    unsampled, _, unsampled_header = traceparent(rng, sampled=False)
    unreadable = {"traceparent": f"00-{'0' * 32}-{caller}-01"}
    async with traced() as client:
        for headers in (header, unsampled_header, {}, unreadable):
            await client.get(SESSIONS, headers=headers)
        spans = await everything(client, otlp)
    theirs = [span for span in spans if span.trace_id == trace_id]
    assert [span.parent_id for span in in_order(theirs)] == [caller], (
        "the request's one span should be a child of the caller's span, in the caller's trace"
    )
    own = [span for span in in_order(spans) if span.trace_id != trace_id]
    assert [span.trace_id for span in own].count(unsampled) == 0, (
        "a trace that the caller does not sample should not be sent"
    )
    assert [span.parent_id for span in own] == ["", "", ""], (
        "without a readable traceparent a request's span has no parent"
    )
    assert len({span.trace_id for span in own}) == 3, "and each request begins a new trace"


@check("server_span")
async def test_server_span(traced: Serve, otlp: Collector, model: OfflineModel) -> None:
    """One span a request, named by the route, with method and status; paths are no names."""
    model.respond(Scenario("Good."))
    unknown = "a-path-of-their-own"
    async with traced(OTEL_SERVICE_NAME="the-agent") as client:
        await client.get("/api/v1/session/one")
        await client.get("/api/v1/session/two")
        await client.ask("hello")
        await client.ask("hello", path=STREAM)
        await client.post(PLAIN, json={"query": ""})
        await client.get(f"/{unknown}")
        spans = await everything(client, otlp)
    requests = in_order(spans)
    assert len(requests) == 7, "each request has exactly one span of its own"
    assert {span.kind for span in requests} == {"server"}, "a request's span is of the kind SERVER"
    attributes = [span.attributes for span in requests]
    assert [each.get("http.response.status_code") for each in attributes] == [
        *(200, 404, 404, 200, 200, 422, 404),
    ], "http.response.status_code is the status that the client got"
    known = [LOGIN, SESSION, SESSION, PLAIN, STREAM, PLAIN]
    methods = ["POST", "GET", "GET", "POST", "POST", "POST", "GET"]
    assert [each.get("http.request.method") for each in attributes] == methods, (
        "http.request.method is the request's method"
    )
    assert [each.get("http.route") for each in attributes] == [*known, None], (
        "http.route is the whole route, from the first / on and with its parameters' names; an"
        " unknown path has none"
    )
    names = [f"{method} {route}" for method, route in zip(methods, known, strict=False)]
    assert [span.name for span in requests[:-1]] == names, (
        "a span is called by its method and its route"
    )
    assert unknown not in requests[-1].name, "a path that is no route should not become a name"
    assert requests[0].resource.get("service.name") == "the-agent", (
        "service.name is OTEL_SERVICE_NAME"
    )


@check("stream_to_last_byte")
async def test_stream_to_last_byte(traced: Serve, otlp: Collector, model: OfflineModel) -> None:
    """A stream's span is still open when its first event has come, and the model goes on."""
    may_go_on = threading.Event()

    def after_the_first_event(_: Call) -> Scenario:
        may_go_on.wait(ARRIVES)
        return Scenario("That is all.")

    ask = ToolCall("ask_analyst", {"task": "Take your time."})
    model.enqueue(Scenario(tool_calls=[ask], preamble="Let me see."), after_the_first_event)
    model.respond(Scenario("Here it is."))
    async with traced() as client:
        async with client.stream("POST", STREAM, json={"query": "hello"}) as response:
            events = arriving(response)
            await anext(events)
            still_open = time.time()
            may_go_on.set()
            last = [event async for event in events][-1]
        spans = await everything(client, otlp)
    assert last["done"], "a stream ends with an event that is done"
    requests = in_order(spans)
    assert len(requests) == 2, "a stream has one span"
    assert requests[1].end >= still_open, "a stream's span ends with its last byte, not before"


@check("leaving_ends_spans")
async def test_leaving_ends_spans(traced: Serve, otlp: Collector, model: OfflineModel) -> None:
    """The client leaves, in a stream or before there is an answer: all that began also ends."""
    model.enqueue(Scenario(pieces=["a "] * 9, hang_after=3), Scenario(hang=True))
    async with traced() as client:
        async with client.stream("POST", STREAM, json={"query": "hello"}) as response:
            await anext(arriving(response))
        waiting = asyncio.create_task(client.ask("hello again"))
        await model.wait_for_async(lambda model: model.call_count == 2, ARRIVES)
        waiting.cancel()
        await model.wait_for_async(
            lambda model: all(call.outcome != "open" for call in model.calls), ARRIVES
        )
        assert await came(otlp, lambda spans: len(in_order(spans)) >= 3), (
            "a request's span ends, and is sent, also when the client leaves"
        )
        unanswered = in_order(otlp.spans)[2]
        assert "http.response.status_code" not in unanswered.attributes, (
            "a request that was never answered has no status"
        )
        assert await came(otlp, lambda spans: len(doing(spans, "chat")) >= 2), (
            "a call of the model that was under way when the client left ends, and is sent"
        )
        assert await came(otlp, lambda spans: len(node_runs(spans)) >= 2), (
            "a node that was at work when the client left ends, and is sent"
        )


# --- the agent's work


@check("agent_steps")
async def test_agent_steps(traced: Serve, otlp: Collector) -> None:
    """Each run of a node has a span in its request's, each tool one in that of its node."""
    async with traced() as client:
        first = await client.ask(TWO_PARTS)
        await asyncio.gather(
            client.ask(TWO_PARTS, first.session_id, STREAM), client.ask(TWO_OTHERS, path=STREAM)
        )
        spans = await everything(client, otlp)
    nodes, tools = node_runs(spans), doing(spans, "execute_tool")
    turns = in_order(spans)[1:]
    assert len(turns) == 3, "each request has one span"
    for turn in turns:
        mine = [span for span in nodes if turn in around(span, spans)]
        names = Counter(map(node_of, mine))
        assert names["supervisor"] == 2, "each time that the supervisor runs is a span"
        assert names["researcher"] == names["analyst"] == 1, "each specialist's run is a span"
        assert all(span.name == f"invoke_agent {node_of(span)}" for span in mine), (
            "a node's span is called invoke_agent and the node"
        )
        used = [span for span in tools if turn in around(span, spans)]
        assert sorted(str(span.attributes.get("gen_ai.tool.name")) for span in used) == [
            *sorted(TOOLS)
        ], "each use of a tool is one span, in its request's"
    for span in tools:
        tool = str(span.attributes["gen_ai.tool.name"])
        assert span.name == f"execute_tool {tool}", (
            "a tool's span is called execute_tool and the tool"
        )
        assert agent_around(span, spans) == TOOLS[tool], (
            "a tool's span lies in that of the node which uses it, also when two nodes run at once"
        )
    for span in tools + doing(spans, "chat"):
        node = next((each for each in around(span, spans) if each in nodes), None)
        assert node is None or node.start <= span.start <= span.end <= node.end, (
            "a node's span lasts as long as the node is at work: all that it does lies within"
        )
    assert {span.kind for span in nodes + tools} == {"internal"}, (
        "what happens in the process is of the kind INTERNAL"
    )


@check("model_calls")
async def test_model_calls(
    traced: Serve, otlp: Collector, model: OfflineModel, rng: Random
) -> None:
    """Each call of the model is a span in that of its node, and says whom it asks."""
    name = rng.choice(["gpt-4.1-mini", "offline-assistant"])
    async with traced(OPENAI_MODEL=name) as client:
        await client.ask(TWO_PARTS, path=STREAM)
        spans = await everything(client, otlp)
    calls = doing(spans, "chat")
    assert len(calls) == model.call_count, "each call of the model is one span"
    made_by = Counter(TOOLS.get(call.tool_names[0], "supervisor") for call in model.calls)
    assert Counter(agent_around(span, spans) for span in calls) == made_by, (
        "a call's span lies in that of the node which makes the call"
    )
    for span in calls:
        assert span.name == f"chat {name}", "a call's span is called chat and the model"
        assert span.kind == "client", "a call's span is of the kind CLIENT"
        assert span.attributes.get("gen_ai.provider.name") == "openai", (
            "gen_ai.provider.name is openai"
        )
        assert span.attributes.get("gen_ai.request.model") == name, (
            "gen_ai.request.model is the model that is asked for"
        )
    steps = sorted(calls + doing(spans, "execute_tool"), key=lambda span: span.start)
    for specialist in TOOLS.values():
        mine = [span for span in steps if agent_around(span, spans) == specialist]
        assert all(earlier.end <= later.start for earlier, later in pairwise(mine)), (
            "a span ends when its call does, before the node's next step begins"
        )


@check("tokens")
async def test_tokens(traced: Serve, otlp: Collector, model: OfflineModel, rng: Random) -> None:
    """A call's span has the tokens that the model reported, of streams too, and none otherwise."""
    plain, streamed = (Usage(rng.randint(10, 999), rng.randint(10, 999)) for _ in range(2))
    model.enqueue(Scenario("Good.", usage=plain), Scenario("Fine.", usage=streamed))
    model.enqueue(Scenario("Well.", usage=False))
    async with traced() as client:
        session = (await client.ask("hello")).session_id
        await client.ask("hello", session, STREAM)
        await client.ask("hello", session)
        spans = await everything(client, otlp)
    seen = [
        tuple(span.attributes.get(f"gen_ai.usage.{way}_tokens") for way in ("input", "output"))
        for span in doing(spans, "chat")
    ]
    assert len(seen) == 3, "each call of the model is one span"
    assert seen[0] == (plain.prompt_tokens, plain.completion_tokens), (
        "a call's span has the tokens that went in and came out"
    )
    assert seen[1] == (streamed.prompt_tokens, streamed.completion_tokens), (
        "a streamed call's span has its tokens, too: they come with the last chunk"
    )
    assert seen[2] == (None, None), "without a report of tokens there are none to tell"


@check("no_span_per_token")
async def test_no_span_per_token(traced: Serve, otlp: Collector, model: OfflineModel) -> None:
    """A streamed answer is one call, however many tokens it has."""
    model.enqueue(Scenario(pieces=["one ", "two "]), Scenario(pieces=["word "] * 60))
    async with traced() as client:
        first = await client.ask("hello", path=STREAM)
        second = await client.ask("hello", first.session_id, STREAM)
        spans = await everything(client, otlp)
    assert second.text == "word " * 60, "the answer comes as the model gave it"
    assert len(doing(spans, "chat")) == 2, "a streamed call is one span"
    _, short, long = in_order(spans)
    size = Counter(span.trace_id for span in spans)
    assert size[short.trace_id] == size[long.trace_id], (
        "a long answer should have no more spans than a short one"
    )
    assert max(len(span.events) for span in spans) < 10, "nor an event for each token"


# --- what goes wrong


@check("errors_marked")
async def test_errors_marked(traced: Serve, otlp: Collector, model: OfflineModel) -> None:
    """A failure on our side marks the spans that failed, and no other; a client's marks none."""
    async with traced() as client:
        model.enqueue(Scenario("Good."))
        session = (await client.ask("hello")).session_id
        model.enqueue(Scenario(status=503, retry_after=7))
        assert (await client.ask("hello", session)).status == 503, "the model is not there"
        model.enqueue(Scenario(status=500), Scenario("Better."))
        assert (await client.ask("hello", session)).status == 200, "the second attempt goes well"
        await client.get("/api/v1/session/nobodys")
        await client.post(PLAIN, json={"query": ""})
        spans = await everything(client, otlp)
    _, good, failed, mended, *refused = in_order(spans)
    calls, nodes = doing(spans, "chat"), node_runs(spans)
    assert len(calls) == 4, "each attempt is a span"
    assert len(nodes) == 3, "each run of a node is a span"
    assert all(map(is_marked, [failed, calls[1], nodes[1]])), (
        "the request that failed, its node and its call have the status ERROR, and error.type"
    )
    assert is_marked(calls[2]), "an attempt that failed is marked, although the next one went well"
    assert all(map(is_clean, [good, mended, calls[0], calls[3], nodes[0], nodes[2]])), (
        "what went well in the end is not marked"
    )
    assert len(refused) == 2, "a request that is refused has a span, too"
    assert all(map(is_clean, refused)), "a 4xx is the client's mistake, and marks no span"


@check("error_in_mid_stream")
async def test_error_in_mid_stream(traced: Serve, otlp: Collector, model: OfflineModel) -> None:
    """A stream that breaks off after its 200 is marked like any other failure."""
    ask = ToolCall("ask_analyst", {"task": "Take your time."})
    model.enqueue(Scenario(tool_calls=[ask], preamble="Let me see."), Scenario(status=400))
    model.respond(Scenario("Good."))
    async with traced() as client:
        broken = await client.ask("hello", path=STREAM)
        whole = await client.ask("hello again", path=STREAM)
        spans = await everything(client, otlp)
    assert (broken.status, broken.code) == (200, "model_error"), "it broke off after its beginning"
    assert "error" not in whole.metadata, "the next one is whole"
    _, first, second = in_order(spans)
    assert first.attributes.get("http.response.status_code") == 200, "its status was 200"
    assert is_marked(first), "a stream that ends with an error has the status ERROR, and error.type"
    assert is_clean(second), "a stream that ends well has not"


# --- beside the spans


@check("log_line")
async def test_log_line(traced: Serve, otlp: Collector, rng: Random) -> None:
    """The log's line on a request has the id of its trace, sampled or not."""
    trace_id, _, header = traceparent(rng)
    unsampled, _, unsampled_header = traceparent(rng, sampled=False)
    async with traced() as client:
        for headers in (header, unsampled_header):
            await client.get(SESSIONS, headers=headers)
        await client.ask("hello")
        spans = await everything(client, otlp)
        lines = await request_lines(client, 5)
    own = in_order(spans)[-1]
    told = [line.get("trace_id") for line in lines]
    assert all({"route", "status", "duration"} <= {*line} for line in lines), (
        "the line on a request says what it has always said, and the id besides"
    )
    assert told[1] == trace_id, "the line on a request has its trace's id, in `trace_id`"
    assert told[2] == unsampled, "the line of a request that is not sampled has one, too"
    assert told[3] == own.trace_id, "the id in the line is the one that the collector knows"


async def request_lines(client: Client, count: int) -> list[dict[str, object]]:
    """The log's lines on requests, once there are so many: they come a little late."""
    deadline = time.monotonic() + ARRIVES
    while True:
        lines = [json.loads(line) for line in client.output.splitlines() if line.startswith("{")]
        found = [line for line in lines if line.get("event") == "request"]
        if len(found) >= count or time.monotonic() > deadline:
            assert len(found) == count, "the log has one line for each request, as before"
            return found
        await asyncio.sleep(0.01)


@check("nothing_private")
async def test_nothing_private(
    traced: Serve, otlp: Collector, model: OfflineModel, rng: Random
) -> None:
    """No span says what was asked, answered, or given to a tool; nor what an exception quotes."""
    question, task, answer, quoted = (f"word{rng.getrandbits(48):012x}" for _ in range(4))
    model.enqueue(
        Scenario(tool_calls=[ToolCall("ask_analyst", {"task": f"calculate {task}"})]),
        Scenario(tool_calls=[ToolCall("calculate", {"expression": f"{task} + 1"})]),
        Scenario(answer),
        Scenario(answer),
        Scenario(tool_calls=[ToolCall([quoted], {})]),  # type: ignore[arg-type]  # no name at all
    )
    async with traced() as client:
        first = await client.ask(f"what is {question}?", path=STREAM)
        second = await client.ask(f"and {question}?", first.session_id)
        spans = await everything(client, otlp)
    assert answer in first.text, "the agent works as before"
    assert second.code == "model_error", "what cannot be read is an error of the model"
    steps = {str(span.attributes.get("gen_ai.operation.name")) for span in spans}
    assert steps >= {"invoke_agent", "chat", "execute_tool"}, "its steps have spans"
    assert any(is_marked(span) for span in doing(spans, "chat")), "what failed is marked"
    for word, what in {
        question: "a question",
        task: "a tool's arguments",
        answer: "an answer",
        quoted: "what an exception quotes",
    }.items():
        assert not any(word in span.text for span in spans), f"{what} should not be in any span"


@check("collector_harms_nobody")
async def test_collector_that_hangs(service: Service, otlp: Collector, model: OfflineModel) -> None:
    """While the collector hangs, requests are answered as ever; when it is back, spans arrive."""
    model.respond(Scenario("Good."))
    otlp.open.clear()
    async with service(forward=otlp.forward) as client:
        try:
            async with asyncio.timeout(5):
                await log_in(client)
                for _ in range(8):
                    assert (await client.get(ALIVE)).status_code == 200, "requests are answered"
                replies = await asyncio.gather(*(client.ask("hello") for _ in range(4)))
        except TimeoutError:
            raise AssertionError("a request should not wait for the collector") from None
        assert [reply.text for reply in replies] == ["Good."] * 4, "turns are answered as well"
        otlp.open.set()
        back = time.time()
        await client.get(ALIVE)
        assert await came(otlp, lambda spans: any(span.start >= back for span in spans)), (
            "when the collector is back, spans arrive again"
        )


@check("collector_harms_nobody")
async def test_no_collector_at_all(service: Service, model: OfflineModel) -> None:
    """Where nobody takes spans, and no address for them is set, the service works the same."""
    model.respond(Scenario("Good."))
    async with service() as client:
        await log_in(client)
        assert (await client.ask("hello")).text == "Good.", "it works without a collector"


@check("stops_in_time")
async def test_sends_soon(traced: Serve, otlp: Collector) -> None:
    """What has ended does not wait for longer than it is told to."""
    async with traced() as client:
        first = await came(otlp, lambda spans: len(in_order(spans)) == 1)
        assert first, "each request has one span"
        await client.get(ALIVE)
        assert await came(otlp, lambda spans: len(in_order(spans)) == 2, within=SOON), (
            "spans are sent at the latest OTEL_BSP_SCHEDULE_DELAY milliseconds after they ended"
        )


@check("stops_in_time")
async def test_sends_what_is_left(traced: Serve, otlp: Collector) -> None:
    """What has ended when the service is told to stop is sent before it has stopped."""
    async with traced(OTEL_BSP_SCHEDULE_DELAY=60_000) as client:
        await client.get(ALIVE)
        await stop(client)
    assert len(in_order(otlp.spans)) == 2, "the last spans are sent before the service ends"


@check("stops_in_time")
async def test_stops_without_the_collector(traced: Serve, otlp: Collector) -> None:
    """A collector that hangs does not keep the service from stopping."""
    async with traced(OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1) as client:
        await client.get(ALIVE)
        assert await came(otlp, lambda spans: len(in_order(spans)) == 2), "spans are sent"
        otlp.open.clear()
        for _ in range(8):
            await client.get(ALIVE)
        await stop(client)


async def stop(client: Client) -> None:
    client.signal(signal.SIGTERM)
    ended = await asyncio.to_thread(client.run.wait_until_ended, STOPS)
    assert ended is not None, "the service should end within a few seconds, collector or not"
    assert ended.code in (0, -signal.SIGTERM), "it should end in good order"
