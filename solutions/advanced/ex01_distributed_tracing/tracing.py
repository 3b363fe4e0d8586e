"""Spans, from the request to the last token, and where they go."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.monitoring import OTHER, endpoint_of

EXPORT_SECONDS = 1.0
"""How long one export may take, and how long at the end others may follow."""

DEFAULT_COLLECTOR = "http://127.0.0.1:4318"
EVENT = b"data: "

traceparent = TraceContextTextMapPropagator()


def tracer_provider(settings: Settings) -> TracerProvider:
    """Makes spans, and sends none yet. What a caller does not sample is not sampled here either."""
    names = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.API_VERSION}
    return TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)


@asynccontextmanager
async def exporting(provider: TracerProvider, settings: Settings) -> AsyncIterator[None]:
    """Send what ends while the block lasts to OTEL_EXPORTER_OTLP_ENDPOINT.

    No request waits for the collector. At the end, what is left is sent, if it takes it soon.
    """
    collector = settings.OTEL_EXPORTER_OTLP_ENDPOINT or DEFAULT_COLLECTOR
    endpoint = f"{collector.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield
    finally:
        # Until the exporter is told to stop, each batch that is left takes as long as the first.
        late = asyncio.get_running_loop().call_later(EXPORT_SECONDS, exporter.shutdown)
        await asyncio.to_thread(provider.shutdown)
        late.cancel()


class ServerSpans:
    """Middleware, outside of all others: one span for each request, from its start to its end."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self._tracer = provider.get_tracer(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._trace(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _trace(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, last_event = 0, b""

        async def noted(message: Message) -> None:
            nonlocal status, last_event
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message.get("body", b"").startswith(EVENT):
                last_event = message["body"]
            await send(message)

        span = self._tracer.start_span(
            scope["method"],
            context=traceparent.extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes={http_attributes.HTTP_REQUEST_METHOD: scope["method"]},
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                await self.app(scope, receive, noted)
        finally:
            _name(span, scope)
            _tell_how_it_ended(span, status, last_event)
            span.end()


def _name(span: Span, scope: Scope) -> None:
    """By its route, which is known only now. A path has as many names as clients make up."""
    if (route := endpoint_of(scope)) != OTHER:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute(http_attributes.HTTP_ROUTE, route)


def _tell_how_it_ended(span: Span, status: int, last_event: bytes) -> None:
    """`status` is 0 when the client left before there was one."""
    if status:
        span.set_attribute(http_attributes.HTTP_RESPONSE_STATUS_CODE, status)
    if error := str(status) if status // 100 == 5 else _error_in(last_event):
        _mark(span, error)


def _error_in(event: bytes) -> str:
    """A stream that has begun can only tell of an error in its last event."""
    metadata = json.loads(event.removeprefix(EVENT))["metadata"] if event else None
    error = (metadata or {}).get("error")
    return str(error["code"]) if error else ""


def _mark(span: Span, error_type: str) -> None:
    """Never with an exception's own words, which may quote a question."""
    span.set_attribute(error_attributes.ERROR_TYPE, error_type)
    span.set_status(StatusCode.ERROR)


class AgentSpans(AsyncCallbackHandler):
    """One span for each node of the graph, each model call and each tool.

    LangChain tells of every run, with its id and that of the run around it.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(__name__)
        self._runs: dict[UUID, _Run] = {}

    async def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Called for nodes, for the whole graph, and for what LangGraph does in between."""
        node = (metadata or {}).get("langgraph_node")
        if node is not None and node == kwargs.get("name"):
            agent = {gen_ai.GEN_AI_AGENT_NAME: node}
            self._begin(run_id, parent_run_id, "invoke_agent", node, agent)

    async def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id)

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        model = kwargs["invocation_params"]["model"]
        call = {gen_ai.GEN_AI_PROVIDER_NAME: "openai", gen_ai.GEN_AI_REQUEST_MODEL: model}
        self._begin(run_id, parent_run_id, "chat", model, call, SpanKind.CLIENT)

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Called at the end of a stream, too, with the whole answer."""
        answer = getattr(response.generations[0][0], "message", None)
        usage = answer.usage_metadata if isinstance(answer, AIMessage) else None
        if usage:
            span = self._runs[run_id].span
            span.set_attribute(gen_ai.GEN_AI_USAGE_INPUT_TOKENS, usage["input_tokens"])
            span.set_attribute(gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS, usage["output_tokens"])
        self._end(run_id)

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    async def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        tool = serialized["name"]
        self._begin(run_id, parent_run_id, "execute_tool", tool, {gen_ai.GEN_AI_TOOL_NAME: tool})

    async def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id)

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    def _begin(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        operation: str,
        subject: str,
        attributes: dict[str, AttributeValue],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        """Below the run around it; a run around it without a span is the graph, in a request."""
        around = self._runs.get(parent_run_id) if parent_run_id else None
        span = self._tracer.start_span(
            f"{operation} {subject}",
            context=trace.set_span_in_context(around.span) if around else None,
            kind=kind,
            attributes={gen_ai.GEN_AI_OPERATION_NAME: operation, **attributes},
        )
        self._runs[run_id] = _Run(span, below=[])
        if around:
            around.below.append(run_id)

    def _end(self, run_id: UUID, error: BaseException | None = None) -> None:
        """With all below it: nobody tells of the end of a model call that was cancelled."""
        if (run := self._runs.pop(run_id, None)) is None:
            return
        for each in run.below:
            self._end(each)
        if isinstance(error, Exception):  # who leaves, or is told to stop, is none
            _mark(run.span, type(error).__name__)
        run.span.end()


class _Run(NamedTuple):
    """What LangChain tells of and has a span, until it ends."""

    span: Span
    below: list[UUID]


def add_trace_id(record: logging.LogRecord) -> bool:
    """A filter that lets every record through, with the id of the trace that it belongs to."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        facts = getattr(record, "facts", {})
        record.facts = {**facts, "trace_id": trace.format_trace_id(span.trace_id)}
    return True
