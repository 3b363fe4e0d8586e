"""Starts the whole of it, and says where it is: `make capstone`. Ctrl-C ends everything."""

import signal
import sys
from collections.abc import Sequence

from capstone.world import PASSWORD, USER, CannotStart, World, running
from grader.judge.traces import Collector, Span

LOOK_SECONDS = 60.0

HOW_TO_USE = """\
Two replicas behind a proxy, with PostgreSQL, Redis, a model without a key, and somebody who takes
the traces. Ctrl-C ends all of it.

  the proxy    {proxy}
  playground   {proxy}/playground
  replicas     {replicas}
  metrics      {metrics}

Log in as {user} with the password {password}, and ask:

  TOKEN=$(curl -s {proxy}/api/v1/auth/login -d username={user} -d password={password} \\
    | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
  curl -N {proxy}/api/v1/query/stream -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -d '{{"query": "What is 6 times 7?"}}'

Or let the load test of exercise 4 ask, for twenty seconds:

  AGENT_PASSWORD={password} .venv/bin/python -m locust --headless \\
    -f solutions/advanced/ex04_load_testing/locustfile.py --users 4 --run-time 20s --host {proxy}

Traces are shown here as they arrive.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    if arguments:
        print("usage: python -m capstone", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running() as world:
            print(how_to_use(world), flush=True)
            show_traces(world.collector)
    except CannotStart as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("All of it has ended.")
    return 0


def show_traces(collector: Collector) -> None:
    """For ever: each trace once its request has ended, with what has arrived of it by then."""
    shown: set[str] = set()
    while True:
        collector.wait_for(lambda spans: any(is_new(span, shown) for span in spans), LOOK_SECONDS)
        for request in [span for span in collector.spans if is_new(span, shown)]:
            shown.add(request.trace_id)
            print(f"\ntrace {request.trace_id}")
            show(request, [s for s in collector.spans if s.trace_id == request.trace_id])


def is_new(span: Span, shown: set[str]) -> bool:
    return span.kind == "server" and span.trace_id not in shown


def show(span: Span, spans: Sequence[Span], indent: str = "  ") -> None:
    where = span.resource.get("service.name", "")
    mark = "  ERROR" if span.status == "error" else ""
    print(
        f"{indent}{span.name}  {1000 * (span.end - span.start):.0f} ms  {where}{mark}", flush=True
    )
    for below in sorted(spans, key=lambda each: each.start):
        if below.parent_id == span.span_id:
            show(below, spans, indent + "  ")


def how_to_use(world: World) -> str:
    replicas = [replica.url for replica in world.replicas]
    return HOW_TO_USE.format(
        proxy=world.url,
        replicas=" ".join(replicas),
        metrics=" ".join(f"{url}/metrics" for url in replicas),
        user=USER,
        password=PASSWORD,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
