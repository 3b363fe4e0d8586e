"""Takes a submission's traces, as a collector does: OTLP over HTTP, in Protocol Buffers."""

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

PATH = "/v1/traces"


@dataclass(frozen=True)
class Span:
    """One span as it arrived. Ids in lower-case hexadecimal; times in seconds since 1970."""

    name: str
    kind: str
    """internal, server, client, producer or consumer."""
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    start: float
    end: float
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    status: str
    """unset, ok or error."""
    status_message: str
    resource: dict[str, Any]
    scope: str

    @property
    def text(self) -> str:
        """Everything in it that a person could read, for looking for what should not be there."""
        return repr((self.name, self.attributes, self.events, self.status_message))


@dataclass
class Collector:
    """Keeps all spans. `status` is what it answers; while `open` is not set it does not answer."""

    address: Path
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    requests: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Why a request could not be read as OTLP."""

    def __post_init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._server = _Server(str(self.address), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[0.05], name="collector", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def forward(self) -> dict[str, tuple[str, Path]]:
        """To be given to `service`: the submission is told where to send its traces."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": ("http://127.0.0.1:{port}", self.address)}

    def wait_for(self, found: Callable[[list[Span]], bool], seconds: float = 10) -> bool:
        """Wait until `found(spans)`, looking again when more arrive; whether it came to that."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not found(list(self.spans)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            for group in request.resource_spans:
                resource = as_dict(group.resource.attributes)
                for scoped in group.scope_spans:
                    name = scoped.scope.name
                    self.spans += [as_span(span, resource, name) for span in scoped.spans]
            self._changed.notify_all()


def as_span(span: trace_pb2.Span, resource: dict[str, Any], scope: str) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=as_dict(span.attributes),
        events=[(event.name, as_dict(event.attributes)) for event in span.events],
        status=trace_pb2.Status.StatusCode.Name(span.status.code)
        .removeprefix("STATUS_CODE_")
        .lower(),
        status_message=span.status.message,
        resource=resource,
        scope=scope,
    )


def as_dict(attributes: Any) -> dict[str, Any]:
    return {pair.key: as_value(pair.value) for pair in attributes if isinstance(pair, KeyValue)}


def as_value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [as_value(each) for each in value.array_value.values]
        case "kvlist_value":
            return as_dict(value.kvlist_value.values)
        case None:
            return None
        case kind:
            return getattr(value, kind)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A submission that left before its answer is no fault of the judge."""


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            collector.requests += 1
            collector.open.wait(60)
            if self.path != PATH:
                return self._answer(404, b"")
            if collector.status == 200:
                try:
                    if self.headers.get("Content-Encoding") == "gzip":
                        body = gzip.decompress(body)
                    collector.take(body)
                except Exception as exc:  # noqa: BLE001 - whatever a submission sends is told, not raised
                    collector.unreadable.append(str(exc))
                    return self._answer(400, b"")
            return self._answer(collector.status, ExportTraceServiceResponse().SerializeToString())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nowhere: the judge's output is for faults of the judge."""

        def address_string(self) -> str:
            return "submission"  # a Unix socket has no address

    return Handler
