"""The medium service as a process: how it starts, refuses to start, and stops."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest

from shared.offline_model import Call, OfflineModel, Scenario
from tests.medium.conftest import Serve
from tests.medium.test_medium_leaving import settled, stalled_client
from tests.serving import TRACEBACK, Process, Service, make_checkout, with_model
from tests.talking import PLAIN, STREAM, ask

STOPPED_BY = {0, -signal.SIGTERM, 128 + signal.SIGTERM}
MEDIUM = ["-m", "uvicorn", "medium.app.main:app", "--port", "0"]
SERVE = ["-m", "shared.serve", "medium.app.main:app"]


# --- settings


@pytest.mark.parametrize(
    ("settings", "names", "hides"),
    [
        ({}, ["OPENAI_API_KEY", "OPENAI_BASE_URL", "make medium"], "nothing"),
        ({"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}, ["OPENAI_API_KEY"], "nothing"),
        (
            {"OPENAI_API_KEY": "sk-secret", "REQUEST_TIMEOUT": "abc"},
            ["REQUEST_TIMEOUT"],
            "sk-secret",
        ),
        ({"OPENAI_API_KEY": "sk-secret", "REQUEST_TIMEOUT": "0"}, ["REQUEST_TIMEOUT"], "sk-secret"),
        (
            {"OPENAI_API_KEY": "sk-secret", "CORS_ORIGINS": "*"},
            ["CORS_ORIGINS", "https://"],
            "sk-secret",
        ),
        (
            {"OPENAI_API_KEY": "sk-secret", "MAX_SESSIONS": "0", "TURN_WAIT": "nan"},
            ["MAX_SESSIONS", "TURN_WAIT"],
            "sk-secret",
        ),
    ],
    ids=["no key", "empty key", "no number", "zero", "any origin", "two faults"],
)
def test_a_refusal_to_start_is_one_sentence(
    checkout: Path, settings: dict[str, str], names: list[str], hides: str
) -> None:
    """A missing or wrong setting ends the start with one line that names it, and no traceback."""
    with Process(MEDIUM, checkout, settings) as process:
        code = process.wait(30)
        lines = [line for line in process.output.splitlines() if not line.startswith("INFO")]
    said = [line for line in lines if names[0] in line]
    assert code not in {0, None}
    assert len(said) == 1, process.output
    assert all(name in said[0] for name in names)
    assert len(lines) <= 2, process.output
    assert TRACEBACK not in process.output
    assert hides not in process.output


async def test_the_hand_out_s_way_to_start(checkout: Path) -> None:
    """`cd medium && uvicorn app.main:app` is the same service."""
    with (
        OfflineModel() as model,
        Service(checkout / "medium", with_model(model), app="app.main:app") as service,
    ):
        async with service.client() as client:
            reply = await ask(client, "hello", path=STREAM)
    assert reply.status == 200
    assert reply.text


IMPORT = """
import os, sys

class Watched(type(os.environ)):
    def __getitem__(self, name):
        if name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "CORS_ORIGINS"):
            print("READ", name)
        return super().__getitem__(name)

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):  # bind: urllib3 tries IPv6 on itself
        print("OPENED", event)
    if event == "open" and str(arguments[0]).endswith(".env"):
        print("OPENED", arguments[0])

os.environ.__class__ = Watched
sys.addaudithook(watch)
import medium.app.main
print("imported", medium.app.main.app.title)
"""


def test_importing_opens_nothing_and_reads_no_secret(checkout: Path) -> None:
    """Importing the module asks for no setting, opens no socket and no `.env`."""
    (checkout / ".env").write_text("OPENAI_API_KEY=sk-secret\n")
    try:
        with Process(["-c", IMPORT], checkout, {"OPENAI_API_KEY": "sk-secret"}) as process:
            code = process.wait()
    finally:
        (checkout / ".env").unlink()
    assert code == 0
    assert "imported" in process.output
    assert "OPENED" not in process.output, process.output
    assert "READ" not in process.output, process.output


def test_an_env_file_that_is_no_utf_8_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Some editors save UTF-16; the refusal says what to do, and nothing is a traceback."""
    folder = make_checkout(tmp_path)
    (folder / ".env").write_text("OPENAI_API_KEY=sk-secret\n", encoding="utf-16")
    with Process(MEDIUM, folder) as process:
        assert process.wait(30) not in {0, None}
        assert "save it as UTF-8" in process.output
        assert TRACEBACK not in process.output


async def test_settings_come_from_env_file_too(tmp_path: Path, checkout: Path) -> None:
    """`.env` beside the packages is read; the environment has the last word."""
    for package in ("shared", "medium"):
        (tmp_path / package).symlink_to(checkout / package)
    with OfflineModel(api_key="sk-from-file") as model:
        (tmp_path / ".env").write_text(
            f"OPENAI_API_KEY=sk-from-file\nOPENAI_BASE_URL={model.base_url}\nREQUEST_TIMEOUT=0\n"
        )
        with Service(tmp_path, {"REQUEST_TIMEOUT": "5"}) as service:
            async with service.client() as client:
                reply = await ask(client, "hello")
    assert reply.status == 200


# --- the end


async def test_sigterm_lets_answers_end(serve: Serve) -> None:
    """At SIGTERM a stream that can finish does, the others get a final event or a 503, in time."""
    service, model = serve()

    def pace(call: Call) -> Scenario:
        if "hang" in call.messages[-1]["content"]:
            return Scenario(pieces=["Hello", "!"], hang_after=1)
        return Scenario(pieces=[f"{n} " for n in range(20)], token_delay=0.1)

    model.respond(pace)
    async with service.client() as client:
        asking = [
            asyncio.create_task(ask(client, query, path=path))
            for query in ("count", "hang")
            for path in (STREAM, PLAIN)
        ]
        await model.wait_for_async(
            lambda m: len(m.calls) == 4 and all(call.pieces_sent for call in m.calls if call.stream)
        )
        stopped_at = time.monotonic()
        service.send(signal.SIGTERM)
        replies = await asyncio.gather(*asking)
        code = await asyncio.to_thread(service.wait, 15)
        took = time.monotonic() - stopped_at
    stream, plain, cut_stream, cut_plain = replies
    assert stream.text == plain.text == "".join(f"{n} " for n in range(20))
    assert "error" not in stream.metadata
    assert (cut_stream.status, cut_stream.text, cut_stream.code) == (200, "Hello", "overloaded")
    assert (cut_plain.status, cut_plain.code) == (503, "overloaded")
    assert int(cut_plain.headers["retry-after"]) >= 1
    assert code in STOPPED_BY
    assert took < 10


async def test_sigterm_does_not_wait_for_clients_that_do_not_read(serve: Serve) -> None:
    """A client that reads nothing cannot keep the process: it is gone within 10 s."""
    service, model = serve()
    model.respond(Scenario(pieces=["x" * 50] * 2000))
    with stalled_client(service), stalled_client(service):
        await model.wait_for_async(lambda m: m.call_count == 2)
        await settled(lambda: sum(call.pieces_sent for call in model.calls))
        stopped_at = time.monotonic()
        service.send(signal.SIGTERM)
        code = await asyncio.to_thread(service.wait, 15)
        took = time.monotonic() - stopped_at
    assert code in STOPPED_BY
    assert took < 10


async def test_an_idle_service_stops_at_once(serve: Serve) -> None:
    """With nothing under way, idle connections do not keep the process: SIGTERM ends it."""
    service, _ = serve()
    async with service.client() as client:
        await ask(client, "hello")
        stopped_at = time.monotonic()
        service.send(signal.SIGTERM)
        code = await asyncio.to_thread(service.wait, 15)
        took = time.monotonic() - stopped_at
    assert code in STOPPED_BY
    assert took < 2


# --- shared.serve, which `make medium` runs


async def test_without_a_key_an_offline_model_answers(checkout: Path) -> None:
    """`python -m shared.serve` says that there is no key, answers, and Ctrl-C ends it all."""
    with Process(SERVE, checkout, {"PORT": "0"}) as process:
        url = process.wait_for_output(r"(http://127\.0\.0\.1:\d+)[; ]", 60)[1]
        process.wait_for_output("Application startup complete", 60)
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            reply = await ask(client, "What is 17.5% of 2480, minus 12?", path=STREAM)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send(signal.SIGINT)
        code = await asyncio.to_thread(process.wait, 10)
    assert "No OPENAI_API_KEY" in process.output
    assert f"curl -N {url}/api/v1/query/stream" in process.output
    assert "422" in reply.text
    assert TRACEBACK not in process.output
    assert code in {0, -signal.SIGINT, 130}
    assert not any(child.is_running() for child in started)


def test_a_port_in_use_is_one_sentence(checkout: Path) -> None:
    """A taken port ends the start with one line that says so, and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Process(SERVE, checkout, {"PORT": str(port)}) as process:
            code = process.wait(30)
    assert code == 1
    assert len(process.output.splitlines()) == 1
    assert str(port) in process.output
    assert "PORT=" in process.output


@pytest.mark.parametrize("port", ["eighty", "-1", "65536", "80.0", "\uff18\uff10"])
def test_a_wrong_port_is_one_sentence(checkout: Path, port: str) -> None:
    """A PORT that is none ends the start with one line."""
    with Process(SERVE, checkout, {"PORT": port}) as process:
        code = process.wait(30)
    assert code == 1
    assert len(process.output.splitlines()) == 1
    assert "PORT" in process.output
