"""Prometheus metrics: what is counted, where it is counted, and how several workers add up.

Hand-out, `monitoring.py`: the five variables keep their names. With several workers each one writes
its numbers into files in PROMETHEUS_MULTIPROC_DIR, and any worker can answer for all.
"""

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import AgentError, ModelError, ModelTimeout, ModelUnavailable
from shared.models import StreamChunk

from .database import SessionStoreUnavailable

CONTENT_TYPE = CONTENT_TYPE_LATEST
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client has no types for it
# They would be a second time series beside each of ours, which nothing here reads.

# Seconds. A model takes its time: the usual buckets end where its answers begin.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"
"""The label of paths and methods that this service does not know: clients make up any number."""

request_count = Counter("http_requests_total", "Requests", ["method", "endpoint", "status"])
request_duration = Histogram(
    "http_request_duration_seconds",
    "From a request's start to the last byte of its response",
    ["method", "endpoint"],
    buckets=BUCKETS,
)
dependency_up = Gauge(
    "dependency_up",
    "Whether it answered when it was last asked; what is switched off has no sample",
    ["dependency"],
    multiprocess_mode="mostrecent",
)

MODEL_ERRORS = {error.code for error in (ModelError, ModelUnavailable, ModelTimeout)}
FAILURES = {*MODEL_ERRORS, AgentError.code, SessionStoreUnavailable.code}
"""What went wrong on our side, or the model's; other errors are refusals, or ends that were asked
for: a deleted session, a shutdown."""

active_sessions = Gauge(
    "agent_active_sessions",
    "Sessions that have not expired, counted in the store at each scrape",
    multiprocess_mode="mostrecent",
)
agent_executions = Counter("agent_executions_total", "Finished turns", ["status"])
agent_duration = Histogram(
    "agent_execution_duration_seconds", "From a turn's start to its end", buckets=BUCKETS
)
time_to_first_token = Histogram(
    "agent_time_to_first_token_seconds", "From a turn's start to its first text", buckets=BUCKETS
)
tokens = Counter("agent_tokens_total", "Tokens that the model reported", ["direction"])
cache_lookups = Counter("cache_lookups_total", "Questions that could be cached", ["result"])
refusals = Counter("agent_refusals_total", "Requests that were refused", ["code"])
model_errors = Counter("agent_model_errors_total", "Turns that failed with the model", ["code"])
streams_in_flight = Gauge(
    "agent_streams_in_flight", "Streamed answers under way", multiprocess_mode="livesum"
)


class Outcome:
    """How a turn ended: "success", "failure", "cancelled", or "refused" before it began."""

    def __init__(self) -> None:
        self.status = "cancelled"  # by the client, unless something else is said

    def failed(self, code: str | None) -> None:
        """With an error that the client is told."""
        self.status = "failure" if code in FAILURES else "cancelled"
        if code in MODEL_ERRORS:
            model_errors.labels(code).inc()


@contextmanager
def measured_turn() -> Iterator[Outcome]:
    """Count the turn that the block is, and its time; a refused one is no execution."""
    started, outcome = time.perf_counter(), Outcome()
    try:
        yield outcome
    except AgentError as exc:
        outcome.failed(exc.code)
        if exc.code not in FAILURES:
            outcome.status = "refused"
        raise
    finally:
        if outcome.status != "refused":
            agent_executions.labels(outcome.status).inc()
            agent_duration.observe(time.perf_counter() - started)


async def measured_stream(
    chunks: AsyncGenerator[StreamChunk, None],
) -> AsyncGenerator[StreamChunk, None]:
    """The same chunks, counted as one turn. The last one may tell of an error."""
    started, silent = time.perf_counter(), True
    with streams_in_flight.track_inprogress(), measured_turn() as outcome:
        async with aclosing(chunks):
            async for chunk in chunks:
                if silent and chunk.chunk:
                    silent = False
                    time_to_first_token.observe(time.perf_counter() - started)
                if chunk.done:
                    outcome.status = "success"
                    if error := (chunk.metadata or {}).get("error"):
                        outcome.failed(error["code"])
                yield chunk


def get_metrics() -> bytes:
    """All metrics of all workers, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    forget_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # as above
    return generate_latest(registry)


def forget_dead_workers(folder: Path) -> None:
    """A worker that was killed has no streams in flight; what it counted stays counted."""
    for path in folder.glob("gauge_live*.db"):
        process = int(path.stem.rpartition("_")[2])
        if not is_alive(process):
            path.unlink(missing_ok=True)  # another worker may be answering, too


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class RequestMetrics:
    """Counts every request, and measures it to its last byte; a stream's is its last event."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.perf_counter) -> None:
        self.app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = self._clock()
        status = "none"  # the client left before there was one

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            method, endpoint = method_of(scope), endpoint_of(scope)
            request_count.labels(method, endpoint, status).inc()
            request_duration.labels(method, endpoint).observe(self._clock() - started)
        return None


def method_of(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else OTHER


def endpoint_of(scope: Scope) -> str:
    """The route's template, such as /api/v1/session/{session_id}."""
    # FastAPI's route in the scope does not know the prefix under which its router was included.
    included = scope.get("fastapi", {}).get("effective_route_context")
    return getattr(included or scope.get("route"), "path", OTHER)
