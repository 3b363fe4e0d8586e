"""Metrics over HTTP: right counts, few labels, one truth of two workers, and who may see them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from shared.offline_model import OfflineModel, Scenario, Usage
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import SERVE, Advanced, served_advanced
from tests.advanced.watching import (
    Samples,
    asking_bytes,
    becomes_true,
    log_lines,
    one_client_a_worker,
    scraped,
    value,
)
from tests.talking import PLAIN, STREAM, arriving, ask, request_bytes

HTTP = "http_requests_total"


class Growth:
    """By how much samples grew since the beginning."""

    def __init__(self, before: Samples) -> None:
        self.before = before
        self.after = before

    def of(self, name: str, **labels: str) -> float:
        return round(value(self.after, name, **labels) - value(self.before, name, **labels), 6)


@asynccontextmanager
async def growing(client: httpx.AsyncClient) -> AsyncIterator[Growth]:
    growth = Growth(await scraped(client))
    yield growth
    growth.after = await scraped(client)


async def test_requests_are_counted_by_template(
    shared_service: Advanced, carol: httpx.AsyncClient
) -> None:
    """Ids, unknown paths and unknown methods make no labels of their own."""
    token = str(carol.headers["Authorization"]).removeprefix("Bearer ")
    async with growing(carol) as growth:
        for n in range(3):
            await carol.get(f"/api/v1/session/{n}")
            await carol.get(f"/made/up/{n}")
            await carol.request(("PROPFIND", "LOCK", "PURGE")[n], f"/made/up/{n}")
            await carol.put(f"/api/v1/session/{n}")
        with shared_service.process.connect() as connection:
            connection.sendall(request_bytes(method="TRACE", path="*"))
            await asyncio.to_thread(connection.recv, 4096)
        await asyncio.to_thread(shared_service.log_in)
    session = "/api/v1/session/{session_id}"
    assert growth.of(HTTP, method="GET", endpoint=session, status="404") == 3
    assert growth.of(HTTP, method="PUT", endpoint=session, status="405") == 3
    assert growth.of(HTTP, method="GET", endpoint="other", status="404") == 3
    assert growth.of(HTTP, method="other", endpoint="other", status="404") == 4
    assert growth.of(HTTP, method="POST", endpoint="/api/v1/auth/login", status="200") == 1
    shown = str(growth.after)
    assert "made" not in shown
    assert "PROPFIND" not in shown
    assert token not in shown


async def test_turns_are_counted_as_they_ended(
    carol: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Success, failure, a cached answer, a stream that breaks off: each once, where it belongs."""
    good = Scenario("Good.", usage=Usage(11, 7))
    model.enqueue(good, Scenario(status=400), Scenario(pieces=["Half", " of"], cut_after=1))
    async with growing(carol) as growth:
        await ask(carol, "good")
        await ask(carol, "good", path=STREAM)
        await ask(carol, "bad")
        await ask(carol, "half", path=STREAM)
        await carol.post(PLAIN, json={"query": ""})
    assert growth.of("agent_executions_total", status="success") == 2
    assert growth.of("agent_executions_total", status="failure") == 2
    assert growth.of("agent_executions_total", status="cancelled") == 0
    assert growth.of("agent_execution_duration_seconds_count") == 4
    assert growth.of("agent_model_errors_total", code="model_error") == 2
    assert growth.of("agent_tokens_total", direction="input") == 11
    assert growth.of("agent_tokens_total", direction="output") == 7
    assert growth.of("cache_lookups_total", result="hit") == 1
    assert growth.of("cache_lookups_total", result="miss") == 1
    assert growth.of("agent_time_to_first_token_seconds_count") == 2
    assert growth.of(HTTP, method="POST", endpoint=PLAIN, status="200") == 1
    assert growth.of(HTTP, method="POST", endpoint=PLAIN, status="502") == 1
    assert growth.of(HTTP, method="POST", endpoint=PLAIN, status="422") == 1
    assert growth.of(HTTP, method="POST", endpoint=STREAM, status="200") == 2


async def test_tokens_are_those_that_the_model_reported(
    carol: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Several calls add up, for first and for later turns; a model that reports none adds none."""
    async with growing(carol) as growth:
        first = await ask(carol, "What is 17.5% of 2480, minus 12?")
        later = await ask(carol, "And what is 2 + 2?", first.session_id, STREAM)
        model.respond(Scenario("Good.", usage=False))
        unknown = await ask(carol, "unknown")
    total = growth.of("agent_tokens_total", direction="input") + growth.of(
        "agent_tokens_total", direction="output"
    )
    assert total == first.metadata["tokens_used"] + later.metadata["tokens_used"]
    assert unknown.metadata["tokens_used"] is None


async def test_a_stream_is_measured_to_its_last_byte(
    carol: httpx.AsyncClient, model: OfflineModel
) -> None:
    """Half a second of tokens is half a second, in flight meanwhile; its first token came early."""
    model.respond(Scenario(pieces=["x"] * 11, token_delay=0.05))
    in_flight = "agent_streams_in_flight"
    async with (
        growing(carol) as growth,
        carol.stream("POST", STREAM, json={"query": "measured"}) as response,
    ):
        events = arriving(response)
        await anext(events)
        meanwhile = await scraped(carol)
        async for _ in events:
            pass
    assert value(meanwhile, in_flight) == 1
    assert value(growth.after, in_flight) == 0
    seconds = "http_request_duration_seconds_sum"
    assert growth.of(seconds, method="POST", endpoint=STREAM) >= 0.45
    assert growth.of("agent_execution_duration_seconds_sum") >= 0.45
    assert growth.of("agent_time_to_first_token_seconds_sum") <= 0.3


@pytest.mark.parametrize(("path", "status"), [(PLAIN, "none"), (STREAM, "200")])
async def test_a_client_that_leaves_is_counted(
    shared_service: Advanced,
    tokens: dict[str, str],
    carol: httpx.AsyncClient,
    model: OfflineModel,
    path: str,
    status: str,
) -> None:
    """A turn that was cancelled is that, and its request has the status that was sent."""
    model.respond(Scenario(pieces=["Hello"], hang_after=1))
    async with growing(carol) as growth:
        with shared_service.process.connect() as connection:
            connection.sendall(asking_bytes(tokens["carol"], f"leaving {path}", path))
            await model.wait_for_async(lambda m: m.call_count == 1)
            if path == STREAM:
                await asyncio.to_thread(connection.recv, 4096)

        def cancelled(samples: Samples) -> float:
            return value(samples, "agent_executions_total", status="cancelled")

        async def has_ended() -> bool:
            return cancelled(await scraped(carol)) > cancelled(growth.before)

        await becomes_true(has_ended)
    assert growth.of("agent_executions_total", status="cancelled") == 1
    assert growth.of(HTTP, method="POST", endpoint=path, status=status) == 1
    assert value(growth.after, "agent_streams_in_flight") == 0


async def test_sessions_are_counted_in_the_store(
    carol: httpx.AsyncClient, dave: httpx.AsyncClient
) -> None:
    """Everybody's that have not expired; a deleted one is gone at the next scrape."""
    async with growing(carol) as growth:
        replies = [await ask(client, "hello") for client in (carol, dave, dave)]
    assert growth.of("agent_active_sessions") == 3
    await dave.delete(f"/api/v1/session/{replies[1].session_id}")
    assert value(await scraped(carol), "agent_active_sessions") == (
        value(growth.before, "agent_active_sessions") + 2
    )


async def test_two_workers_tell_one_truth(shared_service: Advanced, tokens: dict[str, str]) -> None:
    """Whoever answers a scrape, the numbers are the same, and contain what both have done."""
    async with one_client_a_worker(shared_service, tokens["carol"]) as clients:
        async with growing(clients[0]) as growth:
            for client in clients:
                await ask(client, "hello")
        told = [await scraped(client) for client in clients * 3]
    assert growth.of("agent_executions_total", status="success") == 2
    scrapes = ("endpoint", "/metrics")
    for samples in told:
        known = [key for key in samples if scrapes not in key[1]]
        assert {key: samples[key] for key in known} == {key: told[0][key] for key in known}


async def test_a_killed_worker_s_counts_stay_and_its_streams_are_over(
    serve: Serve, tmp_path: Path
) -> None:
    """Numbers of an earlier start are not taken over; those of a worker that died are kept."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "counter_1.db").write_bytes(b"\x00" * 64)
    service = serve(WORKERS="2", PROMETHEUS_MULTIPROC_DIR=str(old))
    service.model.respond(Scenario(pieces=["Hello"], hang_after=1))
    async with one_client_a_worker(service, service.log_in()) as clients:
        pids = [worker.pid for worker in service.workers()]
        begun = asyncio.create_task(ask(clients[0], "hangs", path=STREAM))
        await service.model.wait_for_async(lambda m: bool(m.calls and m.calls[0].pieces_sent))

        async def in_flight() -> bool:
            return value(await scraped(clients[1]), "agent_streams_in_flight") == 1

        await becomes_true(in_flight)
        at_work = service.worker_of(await clients[1].get("/health/live"))
        [other] = [pid for pid in pids if pid != at_work]
        os.kill(other, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            await begun

        async def over() -> bool:
            return value(await scraped(clients[1]), "agent_streams_in_flight") == 0

        await becomes_true(over)
        counted = await scraped(clients[1])
    login = {"method": "POST", "endpoint": "/api/v1/auth/login", "status": "200"}
    assert value(counted, HTTP, **login) == 1
    assert len(log_lines(service.process.output)) > 1


# --- who may see them


@pytest.fixture(scope="module")
def in_production(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Advanced]:
    state = tmp_path_factory.mktemp("production")
    with served_advanced(
        checkout,
        state,
        command=SERVE,
        redis=False,
        ENVIRONMENT="production",
        METRICS_TOKEN="for the monitoring alone",
    ) as service:
        yield service


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer guessed", "Basic for the monitoring alone", "Bearer \xff"]
)
async def test_in_production_metrics_are_not_for_everyone(
    in_production: Advanced, sent: str
) -> None:
    """Without METRICS_TOKEN, or with another: 401 with a challenge, and no number."""
    async with in_production.client() as client:
        headers = {b"Authorization": sent.encode("latin-1")} if sent else {}
        response = await client.get("/metrics", headers=headers)
        user = await client.get(
            "/metrics", headers={"Authorization": f"Bearer {in_production.log_in()}"}
        )
    for refused in (response, user):
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert set(refused.json()) == {"error", "detail", "code"}


async def test_the_monitoring_is_let_in(in_production: Advanced) -> None:
    """METRICS_TOKEN as a bearer token opens them."""
    token = "for the monitoring alone"
    async with in_production.client(token) as client:
        assert value(await scraped(client), "agent_streams_in_flight") == 0


async def test_what_is_switched_off_is_off(serve: Serve) -> None:
    """Without metrics, cache and limits: 404, a call for each question, and no fields."""
    service = serve(ENABLE_METRICS="false", CACHE_ENABLED="false", RATE_LIMIT_ENABLED="false")
    assert service.redis
    service.model.respond(Scenario("Good.", first_token_delay=0.2))
    async with service.user() as client:
        metrics = await client.get("/metrics")
        replies = await asyncio.gather(*(ask(client, "hello") for _ in range(3)))
        replies.append(await ask(client, "hello", path=STREAM))
    assert (metrics.status_code, metrics.json()["code"]) == (404, "not_found")
    assert [reply.metadata["cached"] for reply in replies] == [False] * 4
    assert service.model.call_count == 4
    assert not any("ratelimit" in reply.headers for reply in replies)
    assert service.redis.ask("KEYS", "[cl]*:*") == []
