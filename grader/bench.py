"""`make bench-grader`: how soon a submission answers, cold and warm, and how soon it is judged."""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from grader.catalogue import Exercise, GradingError
from grader.runner import Grader
from grader.sandbox.client import open_run
from grader.sandbox.order import Order
from grader.workspace import Intake, app_name, assemble, solution_files

ROUNDS = 10


def measure(grader: Grader, exercise: Exercise) -> Iterator[str]:
    """Lines of figures: medians, and the slowest; cold and warm in turn, so that load hits both."""
    with tempfile.TemporaryDirectory(dir=grader.warm.folder) as folder:
        workspace = Path(folder) / "course"
        assemble(exercise, grader.base(exercise), solution_files(exercise), workspace)
        Path(folder).chmod(0o755)
        cold, warm = [], []
        for _ in range(ROUNDS):
            cold.append(timed(lambda: cold_start(exercise, workspace)))
            warm.append(timed(lambda: warm_start(grader, exercise, workspace)))
    yield _line("cold uvicorn, until it answers", cold)
    yield _line(f"served at tier {grader.tier}, until it answers", warm)
    yield f"  warm / cold: {statistics.median(warm) / statistics.median(cold):.3f}"
    first = [first_verdict(grader, exercise) for _ in range(ROUNDS)]
    yield _line("from the files to the first verdict", first)
    whole = [timed(lambda: whole_check(grader, exercise)) for _ in range(3)]
    yield _line("a finished exercise, all checks", whole)


def _line(what: str, seconds: list[float]) -> str:
    slowest = f"slowest of {len(seconds)}: {max(seconds):.3f} s"
    return f"  {what:<42} {statistics.median(seconds):.3f} s, {slowest}"


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cold_start(exercise: Exercise, workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "uvicorn", app_name(exercise), "--port", str(port)]
    environment = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "none"}
    process = subprocess.Popen(
        words, cwd=workspace, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _answers(port) and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def warm_start(grader: Grader, exercise: Exercise, workspace: Path) -> None:
    order = Order(
        tier=grader.tier,
        workspace=str(workspace),
        app=app_name(exercise),
        environment={"OPENAI_API_KEY": "none"},
    )
    run = open_run(grader.warm.address, order)
    try:
        if not run.wait_until_ready(20):
            raise GradingError(f"The solution of {exercise.short} does not start.")
    finally:
        run.stop()


def first_verdict(grader: Grader, exercise: Exercise) -> float:
    """As `make watch` does it, the reading of the files included."""
    moments: list[float] = []
    started = time.perf_counter()
    grader.grade(
        exercise,
        Intake(solution_files(exercise)),
        seed=1,
        only=[exercise.checks[0].id],
        tell=lambda result: moments.append(time.perf_counter()),
    )
    return moments[0] - started


def whole_check(grader: Grader, exercise: Exercise) -> None:
    grader.grade(exercise, Intake(solution_files(exercise)), seed=1, lanes=3)
