"""The bench itself, on real services: what it starts, what it reports, what it leaves behind."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.__main__ import exit_code, main
from bench.figures import FIGURES, Sizes, cpu_per_query
from bench.fleet import fleet_on
from bench.hardened import HARDENED
from bench.model import running_model
from bench.report import section
from bench.rounds import Outcome, measure_once
from bench.service import Service

CPU_PER_QUERY = next(figure for figure in FIGURES if figure.measure is cpu_per_query)
TINY = Sizes(queries=5, clients=2)
WRONG = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-length", b"2"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})
"""


async def measured(service: Service) -> Outcome:
    outcome = Outcome(CPU_PER_QUERY, service)
    async with running_model() as model, fleet_on(model) as fleet:
        await measure_once(outcome, fleet, TINY)
    return outcome


def test_a_run_compares_a_service_with_the_bare_app(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One quick figure of a real service: the table and the JSON say the same, nothing failed."""
    written = tmp_path / "bench.json"
    named = "lean=bench.baselines.passthrough:app"
    arguments = ["--quick", "--rounds", "1", "--only", "cpu_per_query", "--service", named]
    assert main([*arguments, "--strict", "--json", str(written)]) == 0
    service, bare = json.loads(written.read_text())["results"]
    assert (service["service"], bare["service"]) == ("lean", "bare")
    assert 0.5 < bare["median"] < 50
    assert 0.1 < service["ratio"] < 1, "a pass-through costs less than a graph"
    assert service["failures"] == bare["failures"] == []
    table = capsys.readouterr().out
    assert "CPU per query, ms" in table
    assert f"{service['ratio']:.2f}  <= 1 x bare" in table
    assert max(map(len, table.splitlines())) <= 100


async def test_wrong_answers_are_counted_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that answers 200 and nonsense is fast, but its figure does not hold."""
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = await measured(Service("wrong", "wrong:app"))
    assert len(outcome.failures) == 40 + 40 + 5, "warm-up queries, warm-up streams, queries"
    assert outcome.holds(0, bare=outcome) is False
    assert "wrong: 85 FAILED" in section([outcome], outcome)


async def test_the_advanced_service_is_measured_as_it_is_meant_to_run() -> None:
    """Logged in, with a Redis of its own, which is gone afterwards; and every answer is right."""
    before = set(psutil.Process().children(recursive=True))
    outcome = await measured(HARDENED)
    assert outcome.failures == []
    assert 0.5 < outcome.median(0) < 100
    assert set(psutil.Process().children(recursive=True)) <= before


async def test_a_service_that_does_not_start_says_why() -> None:
    """It has no values, and the reason is in the report."""
    outcome = await measured(Service("missing", "bench.no_such_module:app"))
    assert math.isnan(outcome.median(0))
    assert outcome.holds(0, bare=outcome) is False
    assert "no_such_module" in section([outcome], outcome)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(sent: signal.Signals) -> None:
    """Ctrl-C in a terminal, or SIGTERM: model and services are gone when the bench is."""
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--only",
        "start",
        "--service",
        "passthrough",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as bench:
        children = wait_for_children(bench, 3)
        os.killpg(bench.pid, sent)
        _, said = bench.communicate(timeout=20)
    assert (bench.returncode, said) == (130, b"stopped; nothing is left running\n")
    assert not any(child.is_running() for child in children)


def wait_for_children(bench: "subprocess.Popen[Any]", count: int) -> list[psutil.Process]:
    """The model, a service that is up and one that is starting."""
    while bench.poll() is None:
        children = psutil.Process(bench.pid).children(recursive=True)
        if len(children) >= count:
            return children
        time.sleep(0.01)
    raise AssertionError(f"the bench ended with {bench.returncode}")


@pytest.mark.parametrize(
    ("failures", "holds", "code"),
    [([], True, 0), ([], None, 0), ([], False, 1), (["503"], True, 1), (["503"], None, 1)],
)
def test_strict_makes_what_is_bad_an_error(
    failures: list[str], holds: bool | None, code: int
) -> None:
    """A missed target, or a failed request even of a baseline; otherwise it is only shown."""
    results: list[dict[str, Any]] = [{"failures": [], "holds": True}]
    results.append({"failures": failures, "holds": holds})
    assert exit_code(results, strict=True) == code
    assert exit_code(results, strict=False) == 0


def test_every_figure_defines_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """--list says of each what it is, and measures nothing."""
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(figure.name in listed and figure.definition in listed for figure in FIGURES)
    assert all(figure.definition for figure in FIGURES)
