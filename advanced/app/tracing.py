"""Tracing: FastAPI's own OpenTelemetry spans, sent to an OTLP endpoint."""

import asyncio
import logging
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
        await asyncio.to_thread(provider.shutdown)
