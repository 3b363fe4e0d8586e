"""The collector that students start beside their service."""

import re
import threading
from http.server import HTTPServer

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from exercises.advanced.ex01_distributed_tracing.collector import Traces

TREE = r"""
trace [0-9a-f]{32}
GET /a  \d+ ms
    http\.route = /a
  first  \d+ ms
      tokens = 7
  second  \d+ ms  ERROR
"""


def test_a_trace_is_shown_as_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    """What lies in a span stands below it, in order, with what it says, and what failed."""
    with HTTPServer(("127.0.0.1", 0), Traces) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        provider = TracerProvider(shutdown_on_exit=False)
        endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        tracer = provider.get_tracer("mine")
        begin = tracer.start_as_current_span
        with begin("GET /a", kind=SpanKind.SERVER, attributes={"http.route": "/a"}):
            with begin("first", attributes={"tokens": 7}):
                pass
            with begin("second") as span:
                span.set_status(StatusCode.ERROR)
        provider.shutdown()
        server.shutdown()
        thread.join()
    assert re.fullmatch(TREE, capsys.readouterr().out)
