"""What a running service tells of itself, and clients that talk to one worker each."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.advanced.serving_advanced import Advanced
from tests.talking import request_bytes

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Check = Callable[[], Awaitable[bool]]


async def scraped(client: httpx.AsyncClient) -> Samples:
    """All samples of `/metrics`, by name and labels."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def log_lines(output: str, event: str = "request") -> list[dict[str, Any]]:
    """The JSON lines with this event."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def becomes_true(check: Check, seconds: float = 10.0) -> float:
    """Ask until it is so; how long that took."""
    started = time.monotonic()
    while not await check():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
    return time.monotonic() - started


@asynccontextmanager
async def one_client_a_worker(
    service: Advanced, token: str
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients whose one connection leads to a worker each."""
    found: dict[int, httpx.AsyncClient] = {}
    async with AsyncExitStack() as stack:
        while len(found) < len(service.workers()):
            client = await stack.enter_async_context(service.client(token))
            pid = service.worker_of(await client.get("/health/live"))
            found.setdefault(pid, client)
        yield list(found.values())


def asking_bytes(token: str, query: str, path: str) -> bytes:
    """A user's question as it goes over the wire."""
    body = json.dumps({"query": query}).encode()
    return request_bytes(body, path=path, headers={"Authorization": f"Bearer {token}"})
