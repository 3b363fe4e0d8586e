"""Submissions that are programs: run to their end, which is theirs to choose."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.catalogue import load
from grader.judge.plugin import verdict_of
from grader.judge.servers import private_folder
from grader.judge.service import Place, Service
from grader.judge.wires import Wires
from grader.report import Verdict
from grader.runner import Grader
from grader.workspace import assemble, make_base, take_in
from shared.offline_model import OfflineModel

EXERCISE = """
title = "A program"
track = "medium"
minutes = 1
files = [{ path = "program.py" }]
hints = ["one", "two", "three"]

[serve]
module = "exercises.medium.ex99_program.program"

[[checks]]
id = "ends"
points = 100
proves = "It ends."
next = "End."
"""

PROGRAM = """
import os, socket, sys, time

print("asking", flush=True)
host, _, port = os.environ["SERVER"].partition(":")
with socket.create_connection((host, int(port))) as server:
    print("heard", server.recv(100).decode(), flush=True)
if os.environ["THEN"] == "wait":
    time.sleep(60)
sys.exit(int(os.environ["THEN"]))
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with private_folder() as folder:
        yield folder


@pytest.fixture
def service(grader: Grader, tmp_path: Path, short_folder: Path) -> Iterator[Service]:
    folder = tmp_path / "exercises/medium/ex99_program"
    folder.mkdir(parents=True)
    (folder / "exercise.toml").write_text(EXERCISE)
    (folder / "program.py").write_text(PROGRAM)
    for course in ("shared", "medium"):
        (tmp_path / course).mkdir()
    exercise = load(folder, tmp_path)
    base = make_base(exercise, tmp_path / "base")
    workspace = grader.warm.folder / tmp_path.name
    assemble(exercise, base, take_in(exercise, folder).files, workspace)
    place = Place(exercise, workspace, grader.warm.address, grader.tier)
    with Wires() as wires, OfflineModel(uds=short_folder / "model") as model:
        yield Service(place, wires, model)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


async def run(service: Service, folder: Path, then: object, number: int | None = None) -> int:
    """Its exit code, after it has heard from a server out here, and got a signal."""
    async with (
        await asyncio.start_unix_server(greet, folder / "server"),
        service.running(
            forward={"SERVER": ("127.0.0.1:{port}", folder / "server")}, THEN=then
        ) as run,
    ):
        if number is not None:
            for _ in range(1000):
                if "heard" in run.output.text:
                    break
                await asyncio.sleep(0.01)
            run.signal(number)
        ended = await asyncio.to_thread(run.wait_until_ended, 10)
    assert ended is not None
    assert ended.code is not None
    assert "heard hello" in run.output.text
    return ended.code


@pytest.mark.parametrize("code", [0, 7])
async def test_a_programs_end_is_for_the_test_to_judge(
    service: Service, short_folder: Path, code: int
) -> None:
    """An exit code is no crash: what fails after it is an assertion like any other."""
    assert await run(service, short_folder, code) == code
    failure = AssertionError("what it did was wrong")
    assert verdict_of(failure, service, while_testing=True) is Verdict.FAILED
    assert verdict_of(None, service, while_testing=True) is Verdict.PASSED


async def test_a_program_can_be_told_something(service: Service, short_folder: Path) -> None:
    assert await run(service, short_folder, "wait", signal.SIGUSR1) == -signal.SIGUSR1


async def test_what_is_left_of_a_program_ends_with_the_block(
    service: Service, short_folder: Path
) -> None:
    address = short_folder / "server"
    async with (
        await asyncio.start_unix_server(greet, address),
        service.running(forward={"SERVER": ("127.0.0.1:{port}", address)}, THEN="wait") as run,
    ):
        ended_by_itself = run.ended is not None
    assert not ended_by_itself
    assert run.ended is not None
    assert verdict_of(AssertionError(), service, while_testing=True) is Verdict.FAILED


async def test_a_refusal_to_start_is_no_crash(service: Service) -> None:
    """It was asked for: what fails after it is an assertion like any other."""
    assert "asking" in await service.refuses(SERVER="nowhere:1", THEN="0")
    assert verdict_of(AssertionError(), service, while_testing=True) is Verdict.FAILED
