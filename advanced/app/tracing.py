"""Tracing: FastAPI's own OpenTelemetry spans to an OTLP endpoint, and LangSmith's where wanted."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from .config import Settings

logger = logging.getLogger(__name__)

EXPORT_SECONDS = 2.0
"""How long one export may take: at the end of the process the last one is waited for."""


def tracer_provider(settings: Settings) -> TracerProvider | None:
    """For `FastAPI(telemetry=...)`; None unless tracing is wanted and has somewhere to go."""
    if not settings.ENABLE_TRACING:
        return None
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT is None:
        logger.warning("ENABLE_TRACING without OTEL_EXPORTER_OTLP_ENDPOINT: nothing is traced.")
        return None
    names = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.API_VERSION}
    return TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)


@asynccontextmanager
async def exporting(provider: TracerProvider | None, settings: Settings) -> AsyncIterator[None]:
    """Send spans, in a thread, while the block lasts. A collector that is away harms no request."""
    if provider is None:
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


def apply_tracing(settings: Settings) -> None:
    """Tell LangSmith whether to trace: it reads the environment, and never our settings.

    Of its many variables the ones set here are asked first. To be called before the first model
    call, since LangSmith remembers what it read.
    """
    if key := settings.langsmith_key:
        os.environ["LANGSMITH_API_KEY"] = key
        os.environ["LANGSMITH_PROJECT"] = settings.LANGCHAIN_PROJECT
    elif settings.LANGCHAIN_TRACING_V2:
        logger.warning("LANGCHAIN_TRACING_V2 without LANGCHAIN_API_KEY: nothing is traced.")
    os.environ["LANGSMITH_TRACING_V2"] = "true" if key else "false"
    for old in ("LANGCHAIN_TRACING", "LANGCHAIN_HANDLER"):  # LangChain raises at each call if set
        os.environ.pop(old, None)
