"""FastAPI's own spans of requests, callbacks without a pause, and sending without a thread."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import aiohttp
from fastapi.telemetry._asgi import NativeTelemetry
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from starlette.types import ASGIApp, Receive, Scope, Send

from advanced.app.config import Settings

request: ContextVar[trace.Span] = ContextVar("request", default=trace.INVALID_SPAN)

AS_PROTOBUF = {"Content-Type": "application/x-protobuf"}


def tracer_provider(settings: Settings) -> TracerProvider:
    resource = Resource.create({"service.name": settings.OTEL_SERVICE_NAME})
    return TracerProvider(resource=resource, shutdown_on_exit=False)


class Ended(SpanProcessor):
    def __init__(self) -> None:
        self.spans: deque[ReadableSpan] = deque(maxlen=2000)

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


@asynccontextmanager
async def exporting(provider: TracerProvider, settings: Settings) -> AsyncIterator[None]:
    where = settings.OTEL_EXPORTER_OTLP_ENDPOINT or "http://localhost:4318"
    ended = Ended()
    provider.add_span_processor(ended)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(1)) as session:

        async def send() -> None:
            batch = [ended.spans.popleft() for _ in range(len(ended.spans))]
            if batch:
                body = encode_spans(batch).SerializeToString()
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post(f"{where}/v1/traces", data=body, headers=AS_PROTOBUF):
                        pass

        async def go_on_sending() -> None:
            while True:
                await asyncio.sleep(0.05)
                await send()

        sending = asyncio.create_task(go_on_sending())
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            await send()


class ServerSpans:
    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self.telemetry = NativeTelemetry(
            {
                "tracing": True,
                "tracer_provider": provider,
                "operation_spans": True,
                "metrics": False,
                "logs": False,
                "exclude": None,
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.telemetry(app=self.traced, scope=scope, receive=receive, send=send)
        else:
            await self.app(scope, receive, send)

    async def traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        request.set(trace.get_current_span())
        await self.app(scope, receive, send)


class AgentSpans(BaseCallbackHandler):
    """Every run has a context, its own or that of the run around it."""

    run_inline = True  # else each callback waits for a thread

    def __init__(self, provider: TracerProvider) -> None:
        self.tracer = provider.get_tracer("agent")
        self.contexts: dict[UUID, contexts.Context] = {}
        self.open: dict[UUID, list[trace.Span]] = {}
        self.mine: dict[UUID, trace.Span] = {}
        self.root: dict[UUID, UUID] = {}

    def enter(
        self, run: UUID, above: UUID | None, name: str = "", *, client: bool = False, **about: Any
    ) -> None:
        root = self.root[run] = self.root.get(above, run) if above else run
        context = self.contexts.get(above) if above else None
        context = context or contexts.get_current()
        if name:
            attributes = {f"gen_ai.{key.replace('__', '.')}": about[key] for key in about}
            kind = trace.SpanKind.CLIENT if client else trace.SpanKind.INTERNAL
            span = self.mine[run] = self.tracer.start_span(name, context, kind, attributes)
            self.open.setdefault(root, []).append(span)
            context = trace.set_span_in_context(span, context)
        self.contexts[run] = context

    def leave(self, run: UUID, error: BaseException | None = None) -> None:
        span, root = self.mine.pop(run, None), self.root[run]
        if isinstance(error, Exception):
            fail(span or request.get(), error)
        if span:
            span.end()
        if run == root:
            for left in self.open.pop(run, []):
                if left.is_recording():
                    left.end()
            for each in [each for each, its in self.root.items() if its == root]:
                self.root.pop(each)
                self.contexts.pop(each)
                self.mine.pop(each, None)

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        name, node = kwargs["name"], (metadata or {}).get("langgraph_node")
        if name == node:
            about = {"operation__name": "invoke_agent", "agent__name": name}
            self.enter(run_id, parent_run_id, f"invoke_agent {name}", **about)
        else:
            self.enter(run_id, parent_run_id)

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        self.leave(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.leave(run_id, error)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        name = serialized["name"]
        about = {"operation__name": "execute_tool", "tool__name": name}
        self.enter(run_id, parent_run_id, f"execute_tool {name}", **about)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.leave(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.leave(run_id, error)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        model = (metadata or {})["ls_model_name"]
        about = {"operation__name": "chat", "provider__name": "openai", "request__model": model}
        self.enter(run_id, parent_run_id, f"chat {model}", client=True, **about)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        usage = getattr(response.generations[0][0], "message", None)
        for way, count in (getattr(usage, "usage_metadata", None) or {}).items():
            if way in ("input_tokens", "output_tokens"):
                self.mine[run_id].set_attribute(f"gen_ai.usage.{way}", count)
        self.leave(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.leave(run_id, error)


def fail(span: trace.Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(trace.StatusCode.ERROR)


def add_trace_id(record: logging.LogRecord) -> bool:
    now = trace.get_current_span().get_span_context()
    if now.is_valid:
        record.__dict__.setdefault("facts", {})["trace_id"] = trace.format_trace_id(now.trace_id)
    return True
