"""Takes traces and shows each as a tree. Given; it is not handed in.

`python -m exercises.advanced.ex01_distributed_tracing.collector`, beside `make serve`.
"""

from collections import defaultdict
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

ADDRESS = ("127.0.0.1", 4318)
spans_of: defaultdict[bytes, list[Span]] = defaultdict(list)


class Traces(BaseHTTPRequestHandler):
    """A trace is shown when the span of its request arrives; what comes later, as it comes."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    take(span)

    def log_message(self, *_: object) -> None:
        pass


def take(span: Span) -> None:
    spans = spans_of[span.trace_id]
    spans.append(span)
    if span.kind == Span.SPAN_KIND_SERVER:
        print(f"\ntrace {span.trace_id.hex()}")
        show(span, spans_of.pop(span.trace_id))


def show(span: Span, spans: list[Span], indent: str = "") -> None:
    milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    mark = "  ERROR" if span.status.code == Status.STATUS_CODE_ERROR else ""
    print(f"{indent}{span.name}  {milliseconds:.0f} ms{mark}", flush=True)
    for pair in span.attributes:
        value = pair.value.string_value or pair.value.int_value
        print(f"{indent}    {pair.key} = {value}", flush=True)
    for below in sorted(spans, key=lambda each: each.start_time_unix_nano):
        if below.parent_span_id == span.span_id:
            show(below, spans, indent + "  ")


def main() -> None:
    with HTTPServer(ADDRESS, Traces) as server:
        print("Waiting for traces at http://{}:{}. Ctrl-C ends it.".format(*ADDRESS), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
