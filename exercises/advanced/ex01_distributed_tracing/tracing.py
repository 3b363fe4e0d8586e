"""Your part: spans, from the request to the last token, and where they go."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from starlette.types import ASGIApp, Receive, Scope, Send

from advanced.app.config import Settings


def tracer_provider(settings: Settings) -> TracerProvider:
    """Makes spans, and sends none yet. What a caller does not sample is not sampled here either."""
    names = {"service.name": settings.OTEL_SERVICE_NAME, "service.version": settings.API_VERSION}
    return TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)


@asynccontextmanager
async def exporting(provider: TracerProvider, settings: Settings) -> AsyncIterator[None]:
    """Send what ends while the block lasts to OTEL_EXPORTER_OTLP_ENDPOINT.

    No request waits for the collector. At the end, what is left is sent, if it takes it soon.
    """
    todo = NotImplementedError("TODO 2: send what ends, and at the end what is left")
    logging.getLogger(__name__).warning("Nothing is sent: %r", todo)
    yield


class ServerSpans:
    """Middleware, outside of all others: one span for each request, from its start to its end."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self.app = app
        self._tracer = provider.get_tracer(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise NotImplementedError("TODO 1: one span for each request, from start to end")
        await self.app(scope, receive, send)


class AgentSpans(AsyncCallbackHandler):
    """One span for each node of the graph, each model call and each tool.

    LangChain tells of every run, with its id and that of the run around it.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(__name__)

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
        raise NotImplementedError("TODO 3: a span for each run of a node")

    async def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        raise NotImplementedError("TODO 3: the end of a node's span")

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        raise NotImplementedError("TODO 3: the end of a node's span, and what went wrong")

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        raise NotImplementedError("TODO 5: a span for each call of the model")

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Called at the end of a stream, too, with the whole answer."""
        raise NotImplementedError("TODO 5: the end of a call's span, and its tokens")

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        raise NotImplementedError("TODO 5: the end of a call's span, and what went wrong")

    async def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        raise NotImplementedError("TODO 4: a span for each use of a tool")

    async def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        raise NotImplementedError("TODO 4: the end of a tool's span")

    async def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        raise NotImplementedError("TODO 4: the end of a tool's span, and what went wrong")


def add_trace_id(record: logging.LogRecord) -> bool:
    """A filter that lets every record through, with the id of the trace that it belongs to."""
    record.facts = {**getattr(record, "facts", {}), "trace_id": "TODO 6: the trace's id"}
    return True
