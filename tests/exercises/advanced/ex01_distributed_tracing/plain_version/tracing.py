"""As the app's own version has it: spans of requests, and how they are sent; nothing below them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain_core.callbacks import AsyncCallbackHandler
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, use_span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from advanced.app.config import Settings
from advanced.app.monitoring import OTHER, endpoint_of

EXPORT_SECONDS = 2.0


def tracer_provider(settings: Settings) -> TracerProvider:
    names = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.API_VERSION}
    return TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)


@asynccontextmanager
async def exporting(provider: TracerProvider, settings: Settings) -> AsyncIterator[None]:
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT is None:
        yield
        return
    endpoint = f"{settings.OTEL_EXPORTER_OTLP_ENDPOINT}".rstrip("/") + "/v1/traces"
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield
    finally:
        # What is left in the queue has this long; then the exporter takes no more of it.
        late = asyncio.get_running_loop().call_later(EXPORT_SECONDS, exporter.shutdown)
        await asyncio.to_thread(provider.shutdown)
        late.cancel()


class ServerSpans:
    """What FastAPI does when it is given a provider."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self.tracer = provider.get_tracer("fastapi")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        span = self.tracer.start_span(method, extract(Headers(scope=scope)), SpanKind.SERVER)
        span.set_attribute("http.request.method", method)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= 500:
                    span.set_attribute("error.type", str(message["status"]))
                    span.set_status(StatusCode.ERROR)
            await send(message)

        try:
            with use_span(span):
                await self.app(scope, receive, noted)
        finally:
            if (route := endpoint_of(scope)) != OTHER:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
            span.end()


class AgentSpans(AsyncCallbackHandler):
    """FastAPI knows of no agent."""

    def __init__(self, provider: TracerProvider) -> None:
        pass


def add_trace_id(record: logging.LogRecord) -> bool:
    return True
