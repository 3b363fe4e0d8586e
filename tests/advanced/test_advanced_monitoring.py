"""Metrics: few labels whatever clients make up, streams to their last byte, workers added up."""

import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from advanced.app.monitoring import BUCKETS, RequestMetrics, get_metrics


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/thing/{thing_id}")
    async def thing(thing_id: str) -> str:
        return thing_id

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x"

        return StreamingResponse(pieces())

    return app


async def ask(app: FastAPI, method: str, path: str) -> None:
    ticks = itertools.count()
    measured = RequestMetrics(app, clock=lambda: float(next(ticks)))
    transport = httpx.ASGITransport(measured)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.request(method, path)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", "/thing/1", {"method": "GET", "endpoint": "/thing/{thing_id}", "status": "200"}),
        ("GET", "/thing/2", {"method": "GET", "endpoint": "/thing/{thing_id}", "status": "200"}),
        ("POST", "/thing/3", {"method": "POST", "endpoint": "/thing/{thing_id}", "status": "405"}),
        ("GET", "/nothing/4", {"method": "GET", "endpoint": "other", "status": "404"}),
        ("BREW", "/nothing/5", {"method": "other", "endpoint": "other", "status": "404"}),
    ],
)
async def test_labels_are_few(method: str, path: str, labels: dict[str, str]) -> None:
    """A request counts under its route's template; what clients make up shares one label."""
    before = value("http_requests_total", **labels)
    await ask(make_app(), method, path)
    assert value("http_requests_total", **labels) == before + 1


async def test_a_stream_is_measured_to_its_last_byte() -> None:
    """The duration is taken after the body, and counts once."""
    labels = {"method": "GET", "endpoint": "/stream"}
    count, total = "http_request_duration_seconds_count", "http_request_duration_seconds_sum"
    before = value(count, **labels), value(total, **labels)
    await ask(make_app(), "GET", "/stream")
    assert value(count, **labels) == before[0] + 1
    assert value(total, **labels) == before[1] + 1  # the clock goes on by one at each look


def test_buckets_fit_models() -> None:
    """An answer may take two minutes and still be told from a hang."""
    assert BUCKETS[-1] == 120


def test_metrics_are_prometheus_text() -> None:
    """What is exported parses, and has the names that dashboards ask for."""
    names = {family.name for family in text_string_to_metric_families(get_metrics().decode())}
    assert names >= {
        "http_requests",
        "http_request_duration_seconds",
        "agent_active_sessions",
        "agent_executions",
        "agent_execution_duration_seconds",
    }


WORKER = """
from advanced.app.monitoring import agent_executions, get_metrics
agent_executions.labels("success").inc(3)
print(get_metrics().decode())
"""


def test_workers_add_up(tmp_path: Path) -> None:
    """Two workers count in files, and each answers for both."""
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    printed = [
        subprocess.run(
            [sys.executable, "-c", WORKER],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    line = 'agent_executions_total{status="success"} '
    assert [float(text.partition(line)[2].split("\n")[0]) for text in printed] == [3, 6]
