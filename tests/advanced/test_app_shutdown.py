"""The end: what becomes of open answers, and that no process is left behind."""

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from shared.offline_model import Call, OfflineModel, Scenario
from tests.advanced.conftest import Serve
from tests.advanced.serving_advanced import NOTHING_SET, SECRET_KEY, SERVE, make_users
from tests.serving import KEY, Process, with_model
from tests.talking import PLAIN, STREAM, ask

COUNTED = "".join(f"{n} " for n in range(20))
DEADLINE = 10.0
"""Seconds: five to drain, two for clients that do not read, the rest for a busy machine."""


def pace(call: Call) -> Scenario:
    """Some questions take two seconds, others for ever."""
    if "hang" in call.messages[-1]["content"]:
        return Scenario(pieces=["Hello", "!"], hang_after=1)
    return Scenario(pieces=[f"{n} " for n in range(20)], token_delay=0.1)


async def all_have_begun(model: OfflineModel, calls: int) -> None:
    await model.wait_for_async(
        lambda m: len(m.calls) == calls and all(c.pieces_sent for c in m.calls if c.stream)
    )


@pytest.mark.parametrize("workers", [1, 2])
async def test_open_answers_end(serve: Serve, workers: int) -> None:
    """At SIGTERM short answers go on to their end; long ones are told, in their last event."""
    service = serve(WORKERS=str(workers))
    service.model.respond(pace)
    async with service.user() as client:
        asking = [
            asyncio.create_task(ask(client, f"{query} {path}", path=path))
            for query in ("count", "hang")
            for path in (STREAM, PLAIN)
        ]
        await all_have_begun(service.model, 4)
        stopped_at = time.monotonic()
        service.process.send(signal.SIGTERM)
        stream, plain, cut_stream, cut_plain = await asyncio.gather(*asking)
        await asyncio.to_thread(service.process.wait, 15)
        took = time.monotonic() - stopped_at
    assert stream.text == plain.text == COUNTED
    assert "error" not in stream.metadata
    assert (cut_stream.status, cut_stream.text, cut_stream.code) == (200, "Hello", "overloaded")
    assert (cut_plain.status, cut_plain.code) == (503, "overloaded")
    assert int(cut_plain.headers["retry-after"]) >= 1
    assert took < DEADLINE


async def test_a_second_ctrl_c_ends_at_once(serve: Serve) -> None:
    """Ctrl-C reaches all processes of a terminal; the second one does not wait for answers."""
    service = serve(WORKERS="2")
    service.model.respond(pace)
    family = [service.process.pid, *(worker.pid for worker in service.workers())]
    async with service.user() as client:
        asking = [asyncio.create_task(ask(client, f"hang {n}", path=STREAM)) for n in range(4)]
        await all_have_begun(service.model, 4)
        os.killpg(service.process.pid, signal.SIGINT)
        await asyncio.to_thread(service.process.wait_for_output, "Shutting down")
        stopped_at = time.monotonic()
        os.killpg(service.process.pid, signal.SIGINT)
        await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.to_thread(service.process.wait, 15)
        took = time.monotonic() - stopped_at
    assert took < 3
    assert not any(psutil.pid_exists(pid) for pid in family)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(checkout: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Workers and the embedded Redis go with their parent, also with one that is killed."""
    make_users(tmp_path)
    with OfflineModel(api_key=KEY) as model:
        settings = {
            **NOTHING_SET,
            **with_model(model),
            "STATE_DIR": str(tmp_path),
            "SECRET_KEY": SECRET_KEY,
            "PORT": "0",
            "WORKERS": "2",
        }
        with Process(SERVE, checkout, settings) as process:
            process.wait_for_output("The agent is at", 60)
            port = int(process.wait_for_output(r"Redis of our own runs on port (\d+)")[1])
            family = psutil.Process(process.pid).children(recursive=True)
            servers = [each for each in family if listens(each, port)]
            process.send(number)
            process.wait(15)
            left = psutil.wait_procs(family, timeout=10)[1]
            for each in left:
                each.kill()
    assert len(servers) == 1
    assert not left


def listens(process: psutil.Process, port: int) -> bool:
    sockets = process.net_connections("tcp")
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)
