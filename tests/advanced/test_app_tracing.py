"""Traces: what a collector is sent, and that none, well or not, costs a request anything."""

import asyncio
import gzip
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from shared.offline_model import Scenario
from tests.advanced.conftest import Serve
from tests.advanced.watching import becomes_true
from tests.talking import STREAM, ask


class Collector:
    """Takes spans over OTLP/HTTP, until it is told to hang."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[Mapping[str, str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def take(self, body: bytes) -> None:
        for spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = spans.resource.attributes
            self.resources.append({each.key: each.value.string_value for each in attributes})
            self.spans += [span for scope in spans.scope_spans for span in scope.spans]

    @property
    def of_the_server(self) -> list[tuple[str, dict[str, str | int], float]]:
        """Name, attributes and seconds of each server span."""
        return [
            (
                span.name,
                {a.key: a.value.string_value or a.value.int_value for a in span.attributes},
                (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            )
            for span in self.spans
            if span.kind == Span.SPAN_KIND_SERVER
        ]

    @contextmanager
    def listening(self) -> Iterator[str]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.may_answer.wait()
                collector.take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                self.may_answer.set()
                server.shutdown()
                thread.join()


async def test_each_request_has_one_span_and_a_collector_that_hangs_harms_nobody(
    serve: Serve,
) -> None:
    """Route, status, a stream to its last byte; then requests and shutdown in spite of it."""
    collector = Collector()
    with collector.listening() as endpoint:
        service = serve(
            ENABLE_TRACING="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_SERVICE_NAME="seen",
            OTEL_BSP_SCHEDULE_DELAY="100",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="50",
        )
        service.model.respond(Scenario(pieces=["x"] * 10, token_delay=0.05))
        async with service.user() as client:
            await ask(client, "hello", path=STREAM)
            for path in ("/api/v1/session/one", "/api/v1/session/two", "/nothing/here"):
                await client.get(path)

            async def have_come() -> bool:
                return len(collector.of_the_server) >= 5

            await becomes_true(have_come)
            collector.may_answer.clear()
            slowest = 0.0
            for _ in range(5):
                before = time.monotonic()
                await asyncio.gather(*(client.get("/health/live") for _ in range(50)))
                slowest = max(slowest, time.monotonic() - before)
        stopped_at = time.monotonic()
        service.process.send(signal.SIGTERM)
        await asyncio.to_thread(service.process.wait, 15)
        took = time.monotonic() - stopped_at

    spans = collector.of_the_server[:5]
    told = [
        (name, attributes.get("http.route"), attributes["http.response.status_code"])
        for name, attributes, _ in spans
    ]
    session = "/api/v1/session/{session_id}"
    assert told == [
        ("POST /api/v1/auth/login", "/api/v1/auth/login", 200),
        (f"POST {STREAM}", STREAM, 200),
        (f"GET {session}", session, 404),
        (f"GET {session}", session, 404),
        ("GET", None, 404),
    ]
    assert spans[1][2] >= 0.45, "the stream's span ended before its last byte"
    assert {resource["service.name"] for resource in collector.resources} == {"seen"}
    assert slowest < 2, "fifty requests at once waited for the collector"
    assert took < 5


@pytest.fixture
def nobody_calls() -> Iterator[str]:
    """An address at which nobody may ever call."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_nothing_is_traced_unless_it_is_wanted(serve: Serve, nobody_calls: str) -> None:
    """An endpoint alone, or LangSmith switched on without a key, sends nothing anywhere."""
    service = serve(
        OTEL_EXPORTER_OTLP_ENDPOINT=nobody_calls,
        OTEL_BSP_SCHEDULE_DELAY="100",
        LANGCHAIN_TRACING_V2="true",
        LANGSMITH_TRACING="true",
        LANGSMITH_ENDPOINT=nobody_calls,
        LANGCHAIN_ENDPOINT=nobody_calls,
    )
    async with service.user() as client:
        reply = await ask(client, "What is 17.5% of 2480, minus 12?")
        session = reply.session_id
        await ask(client, "And again?", session, STREAM)
    assert reply.status == 200
    service.process.stop()  # what was to be sent in the background has been
