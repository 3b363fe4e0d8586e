"""Spans that are drawn when a run of the graph is over, and sent by a thread of our own."""

import asyncio
import json
import logging
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from langchain_core.tracers.base import AsyncBaseTracer
from langchain_core.tracers.schemas import Run
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings

PAUSE = 0.05


def tracer_provider(settings: Settings) -> TracerProvider:
    resource = Resource.create({"service.name": settings.OTEL_SERVICE_NAME})
    return TracerProvider(resource=resource, shutdown_on_exit=False)


class Box(SpanProcessor):
    """Takes finished spans; a full one takes no more."""

    def __init__(self) -> None:
        self.spans: queue.Queue[ReadableSpan | None] = queue.Queue(1000)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            self.spans.put_nowait(span)
        except queue.Full:
            logging.getLogger(__name__).warning("A span is lost")

    def batches(self) -> Iterator[list[ReadableSpan]]:
        while True:
            batch = [self.spans.get()]
            threading.Event().wait(PAUSE)
            while not self.spans.empty():
                batch.append(self.spans.get_nowait())
            yield [span for span in batch if span]
            if None in batch:
                return


@asynccontextmanager
async def exporting(provider: TracerProvider, settings: Settings) -> AsyncIterator[None]:
    where = settings.OTEL_EXPORTER_OTLP_ENDPOINT
    exporter = OTLPSpanExporter(endpoint=f"{where}/v1/traces" if where else None, timeout=1)
    box = Box()

    def send() -> None:
        for batch in box.batches():
            if batch:
                exporter.export(batch)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    provider.add_span_processor(box)
    try:
        yield
    finally:
        await asyncio.to_thread(box.spans.put, None)
        await asyncio.to_thread(thread.join, 3)


class ServerSpans:
    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self.tracer = provider.get_tracer("server")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.request(scope) as span:
            tail = bytearray()

            async def watching(message: Message) -> None:
                if "status" in message:
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        fail(span, f"{message['status']}")
                tail.extend(message.get("body", b""))
                del tail[:-5000]
                await send(message)

            try:
                await self.app(scope, receive, watching)
            finally:
                *_, last = bytes(tail).rpartition(b"data: ")
                if last.rstrip().endswith(b"}") and b'"done":true' in last:
                    error = json.loads(last)["metadata"].get("error")
                    if error:
                        fail(span, error["code"])

    @contextmanager
    def request(self, scope: Scope) -> Iterator[trace.Span]:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        caller = TraceContextTextMapPropagator().extract(headers)
        method = scope["method"]
        span = self.tracer.start_span(
            method, caller, trace.SpanKind.SERVER, {"http.request.method": method}
        )
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            yield span
        finally:
            contexts.detach(token)
            route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
            if route is not None:
                span.set_attribute("http.route", route.path)
                span.update_name(f"{method} {route.path}")
            span.end()


def fail(span: trace.Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(trace.StatusCode.ERROR)


class AgentSpans(AsyncBaseTracer):
    """LangChain keeps the tree of runs; at the end of its root, each run becomes a span."""

    def __init__(self, provider: TracerProvider) -> None:
        super().__init__(_schema_format="original+chat")
        self.tracer = provider.get_tracer("agent")

    async def on_chain_error(self, error: BaseException, **about: Any) -> None:
        self.run_map[f"{about['run_id']}"].extra["failed"] = failed(error)
        await super().on_chain_error(error, **about)

    async def on_llm_error(self, error: BaseException, **about: Any) -> None:
        self.run_map[f"{about['run_id']}"].extra["failed"] = failed(error)
        await super().on_llm_error(error, **about)

    async def on_tool_error(self, error: BaseException, **about: Any) -> None:
        self.run_map[f"{about['run_id']}"].extra["failed"] = failed(error)
        await super().on_tool_error(error, **about)

    async def _persist_run(self, run: Run) -> None:
        self.draw(run, contexts.get_current())

    def draw(self, run: Run, context: contexts.Context) -> None:
        name, kind, attributes = described(run)
        if not attributes:
            for child in run.child_runs:
                self.draw(child, context)
            return
        span = self.tracer.start_span(
            name, context, kind, attributes, start_time=nanoseconds(run.start_time)
        )
        for child in run.child_runs:
            self.draw(child, trace.set_span_in_context(span, context))
        if run.extra.get("failed"):
            fail(span, run.extra["failed"])
        span.end(nanoseconds(run.end_time or datetime.now(UTC)))


def failed(error: BaseException) -> str | None:
    """The class: what LangChain keeps of an exception begins with its words."""
    return type(error).__name__ if isinstance(error, Exception) else None


def described(run: Run) -> tuple[str, trace.SpanKind, dict[str, Any]]:
    """Its span's name, kind and attributes; no attributes if it has none."""
    if run.run_type == "tool":
        operation, subject, kind = "execute_tool", run.name, trace.SpanKind.INTERNAL
        attributes: dict[str, Any] = {"gen_ai.tool.name": run.name}
    elif run.run_type in ("llm", "chat_model"):
        subject = run.extra["invocation_params"]["model"]
        operation, kind = "chat", trace.SpanKind.CLIENT
        attributes = {"gen_ai.provider.name": "openai", "gen_ai.request.model": subject}
        generations = (run.outputs or {}).get("generations") or [[{}]]
        message = (generations[0] or [{}])[0].get("message") or {}
        if usage := message.get("kwargs", {}).get("usage_metadata"):
            attributes["gen_ai.usage.input_tokens"] = usage["input_tokens"]
            attributes["gen_ai.usage.output_tokens"] = usage["output_tokens"]
    elif run.name == run.metadata.get("langgraph_node"):
        operation, subject, kind = "invoke_agent", run.name, trace.SpanKind.INTERNAL
        attributes = {"gen_ai.agent.name": run.name}
    else:
        return "", trace.SpanKind.INTERNAL, {}
    return f"{operation} {subject}", kind, {"gen_ai.operation.name": operation, **attributes}


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def add_trace_id(record: logging.LogRecord) -> bool:
    current = trace.get_current_span().get_span_context()
    if current.trace_id:
        known = getattr(record, "facts", {})
        record.facts = known | {"trace_id": f"{current.trace_id:032x}"}
    return True
