"""Runs as objects: a span for the whole agent around its nodes, a thread that closes."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings


def tracer_provider(settings: Settings) -> TracerProvider:
    names = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.API_VERSION}
    return TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)


@asynccontextmanager
async def exporting(provider: TracerProvider, settings: Settings) -> AsyncIterator[None]:
    endpoint = (settings.OTEL_EXPORTER_OTLP_ENDPOINT or "http://127.0.0.1:4318").rstrip("/")
    exporter = OTLPSpanExporter(endpoint + "/v1/traces", timeout=1)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=4096, max_export_batch_size=256)
    )
    try:
        yield
    finally:
        # A daemon: the process does not wait for it.
        done = threading.Event()

        def close() -> None:
            provider.shutdown()
            done.set()

        threading.Thread(target=close, daemon=True).start()
        for _ in range(30):
            if done.is_set():
                break
            await asyncio.sleep(0.1)
        else:
            exporter.shutdown()  # type: ignore[no-untyped-call]  # it has no types


def failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


class Observer:
    """What the client was told."""

    def __init__(self, send: Send) -> None:
        self.forward = send
        self.status: int | None = None
        self.is_stream = False
        self.rest = b""
        self.event = b""

    async def send(self, message: Message) -> None:
        match message:
            case {"type": "http.response.start", "status": status, "headers": headers}:
                self.status = status
                self.is_stream = any(
                    k.lower() == b"content-type" and v.startswith(b"text/event-stream")
                    for k, v in headers
                )
            case {"type": "http.response.body", "body": body} if self.is_stream:
                *lines, self.rest = (self.rest + body).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        self.event = line[5:]
        await self.forward(message)

    @property
    def error(self) -> str | None:
        if self.status is not None and self.status >= 500:
            return str(self.status)
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(self.event)["metadata"]["error"]["code"])
        return None


class ServerSpans:
    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self._tracer = provider.get_tracer(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        span = self._tracer.start_span(
            scope["method"],
            context=propagate.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"]},
        )
        observer = Observer(send)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                await self.app(scope, receive, observer.send)
            except Exception as exc:
                failed(span, f"{type(exc).__module__}.{type(exc).__qualname__}")
                raise
            finally:
                if observer.status is not None:
                    span.set_attribute("http.response.status_code", observer.status)
                if observer.error:
                    failed(span, observer.error)
                route = scope.get("fastapi", {}).get("effective_route_context") or scope.get(
                    "route"
                )
                if route is not None:
                    span.set_attribute("http.route", route.path)
                    span.update_name(f"{scope['method']} {route.path}")
                span.end()


@dataclass
class Run:
    span: Span
    children: dict[UUID, Run] = field(default_factory=dict)
    parent: Run | None = None

    def end(self) -> None:
        for child in self.children.values():
            child.end()
        if self.span.is_recording():
            self.span.end()


class AgentSpans(AsyncCallbackHandler):
    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(__name__)
        self._runs: dict[UUID, Run | None] = {}

    def _open(
        self, run_id: UUID, parent_id: UUID | None, name: str, kind: SpanKind, facts: dict[str, Any]
    ) -> None:
        parent = self._runs.get(parent_id) if parent_id else None
        context = trace.set_span_in_context(parent.span) if parent else None
        run = Run(
            self._tracer.start_span(name, context, kind=kind, attributes=facts), parent=parent
        )
        if parent:
            parent.children[run_id] = run
        self._runs[run_id] = run

    def _forget(self, run_id: UUID) -> Run | None:
        run = self._runs.pop(run_id, None)
        if run:
            for child in list(run.children):
                self._forget(child)
        return run

    def _close(self, run_id: UUID, error: BaseException | None = None) -> None:
        run = self._forget(run_id)
        if run is None:
            return
        if error is not None:
            failed(run.span, f"{type(error).__module__}.{type(error).__qualname__}")
        run.end()

    async def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        name: str = "",
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if parent_run_id is None:
            self._open(
                run_id,
                None,
                "invoke_agent agent-service",
                SpanKind.INTERNAL,
                {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "agent-service"},
            )
        elif any(tag.startswith("graph:step:") for tag in tags or ()):
            node = (metadata or {})["langgraph_node"]
            self._open(
                run_id,
                parent_run_id,
                f"invoke_agent {node}",
                SpanKind.INTERNAL,
                {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": node},
            )
        else:
            self._runs[run_id] = self._runs.get(parent_run_id)

    async def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        self._end_chain(run_id)

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end_chain(run_id, error)

    def _end_chain(self, run_id: UUID, error: BaseException | None = None) -> None:
        run = self._runs.get(run_id)
        own = run is not None and (run.parent is None or run_id in run.parent.children)
        if own:
            self._close(run_id, error)
        else:
            self._runs.pop(run_id, None)

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        model = serialized["kwargs"]["model_name"]
        facts = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.input.messages.count": sum(map(len, messages)),
        }
        self._open(run_id, parent_run_id, f"chat {model}", SpanKind.CLIENT, facts)

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._runs.get(run_id)
        if run:
            for generation in response.generations[0]:
                message = getattr(generation, "message", None)
                usage = getattr(message, "usage_metadata", None) or {}
                for ours, theirs in (("input", "input_tokens"), ("output", "output_tokens")):
                    if theirs in usage:
                        run.span.set_attribute(f"gen_ai.usage.{ours}_tokens", usage[theirs])
        self._close(run_id)

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._close(run_id, error)

    async def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        name = kwargs.get("name") or serialized["name"]
        self._open(
            run_id,
            parent_run_id,
            f"execute_tool {name}",
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.description": serialized.get("description", ""),
            },
        )

    async def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._close(run_id)

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._close(run_id, error)


def add_trace_id(record: logging.LogRecord) -> bool:
    facts = dict(getattr(record, "facts", {}))
    found = trace.get_current_span().get_span_context()
    facts["trace_id"] = format(found.trace_id, "032x") if found.is_valid else ""
    record.facts = facts
    return True
