"""The walls: what each tier promises, seen from inside."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from grader.catalogue import ROOT
from grader.sandbox.client import (
    Ended,
    Refused,
    Run,
    SandboxProblem,
    WarmParent,
    open_run,
    strongest_walls,
)
from grader.sandbox.order import Forward, Limits, Order

APP = """
import gc, json, os, socket, sys
from fastapi import FastAPI, Request

app = FastAPI()

@app.get("/")
def root(request: Request):
    return {
        "uid": os.getuid(), "pid": os.getpid(), "cwd": os.getcwd(), "client": request.client.host,
        "environment": dict(os.environ), "modules": sorted(sys.modules),
        "interfaces": [name for _, name in socket.if_nameindex()], "path": sys.path,
        "looked_at": list(sys.path_importer_cache), "collects": gc.isenabled(),
    }

"""

COUNT_FDS = """
import os

for fd in range(3, 1000):
    try:
        print(fd, os.fstat(fd).st_mode)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmParent]:
    with WarmParent() as parent:
        parent.wait_until_warm()
        yield parent


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return folder


def look_around(run: Run) -> dict[str, Any]:
    assert run.wait_until_ready(20), run.output.text
    with run.connect() as connection, connection.makefile("rb") as answer:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        seen: dict[str, Any] = json.loads(answer.read().partition(b"\r\n\r\n")[2])
    return seen


def served(warm: WarmParent, workspace: Path, tier: int, **more: Any) -> Run:
    return open_run(warm.address, Order(tier=tier, workspace=str(workspace), app="app:app", **more))


@pytest.fixture(params=[1, 2, 3])
def tier(request: pytest.FixtureRequest, warm: WarmParent) -> int:
    """Each tier that this system allows."""
    if request.param < strongest_walls(warm.address).tier:
        pytest.skip(f"this system does not allow tier {request.param}")
    return int(request.param)


@pytest.fixture
def isolated(warm: WarmParent) -> None:
    if strongest_walls(warm.address).tier != 1:
        pytest.skip("this system allows no namespaces")


def test_a_submission_sees_its_own_world(warm: WarmParent, workspace: Path, tier: int) -> None:
    """Its environment, its files and a client with an address; no descriptor of its parents."""
    forwards = [Forward("REDIS_URL", "redis://127.0.0.1:{port}/0")]
    run = served(warm, workspace, tier, environment={"X": "y"}, forwards=forwards)
    try:
        seen = look_around(run)
    finally:
        run.stop()
        for door in run.doors:
            door.close()
    port = seen["environment"]["REDIS_URL"].split(":")[2].removesuffix("/0")
    assert port.isdecimal()
    assert set(seen["environment"]) == {"X", "HOME", "PATH", "LANG", "PORT", "REDIS_URL"}
    assert seen["client"] == "127.0.0.1"
    assert str(ROOT) not in seen["path"]
    outside = [
        path for path in seen["looked_at"] if not path.startswith((sys.prefix, sys.base_prefix))
    ]
    assert not [path for path in outside if path.startswith(str(ROOT))]
    assert seen["collects"]
    assert "prometheus_client" not in seen["modules"], "it reads the environment on import"


KEEP = """
import os
from pathlib import Path

assert os.environ["STATE_DIR"] == os.environ["DATA_DIR"] + "/state"
folder = Path(os.environ["STATE_DIR"])
folder.mkdir()
(folder / "kept").touch()
"""


def test_a_folder_to_write_to_is_where_its_settings_say(
    warm: WarmParent, workspace: Path, tier: int, tmp_path: Path
) -> None:
    """As DATA_DIR, and in every setting that wants it; what is written is there afterwards."""
    (workspace / "keep.py").write_text(KEEP)
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    order = Order(
        tier=tier,
        workspace=str(workspace),
        module="keep",
        environment={"STATE_DIR": "{data}/state"},
        writable=str(data),
    )
    run = open_run(warm.address, order)
    try:
        ended = run.wait_until_ended(20)
    finally:
        run.stop()
    assert ended == Ended(0), run.output.text
    assert (data / "state/kept").exists()


def test_two_descriptors_are_handed_down(warm: WarmParent, workspace: Path, tier: int) -> None:
    """The socket it serves on, and the pipe that says that it is ready."""
    (workspace / "count.py").write_text(COUNT_FDS)
    run = open_run(warm.address, Order(tier=tier, workspace=str(workspace), module="count"))
    try:
        ended = run.wait_until_ended(20)
    finally:
        run.stop()
    assert ended == Ended(0)
    assert len(run.output.text.splitlines()) == 2


@pytest.mark.usefixtures("isolated")
def test_isolated(warm: WarmParent, workspace: Path) -> None:
    """Process 2 of its own tree, with a loopback and no other interface."""
    run = served(warm, workspace, 1)
    try:
        seen = look_around(run)
    finally:
        run.stop()
    assert (seen["pid"], seen["interfaces"], seen["cwd"]) == (2, ["lo"], "/course")
    assert seen["uid"] != 0


def test_the_whole_tree_ends(warm: WarmParent, workspace: Path, tier: int) -> None:
    """A process that has left its session ends with its submission."""
    (workspace / "app.py").write_text(
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n"
        "        time.sleep(300)\n    os._exit(0)\n" + APP
    )
    run = served(warm, workspace, tier)
    assert run.wait_until_ready(20), run.output.text
    keepers = psutil.Process(warm.pid).children(recursive=True)
    assert len(keepers) >= 3
    run.stop()
    psutil.wait_procs(keepers, timeout=5)
    assert [process for process in keepers if process.is_running()] == []


def test_the_tree_ends_with_its_judge(warm: WarmParent, workspace: Path, tier: int) -> None:
    """A judge that is killed leaves nothing running."""
    code = (
        "import sys, pathlib, os; from grader.sandbox.client import open_run\n"
        "from grader.sandbox.order import Order\n"
        "run = open_run(pathlib.Path(sys.argv[1]), Order(**eval(sys.argv[2])))\n"
        "run.wait_until_ready(20); print('ready', flush=True); os.kill(os.getpid(), 9)"
    )
    order = {"tier": tier, "workspace": str(workspace), "app": "app:app"}
    subprocess.run([sys.executable, "-c", code, str(warm.address), str(order)], check=False)
    left = psutil.Process(warm.pid).children(recursive=True)
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []


def test_a_limit_has_a_name(warm: WarmParent, workspace: Path) -> None:
    """Too much memory is told apart from a crash."""
    (workspace / "app.py").write_text(
        "held = [bytearray(b'x') * 2**20 for _ in range(600)]\n" + APP
    )
    limits = Limits(memory=300 * 2**20)
    run = served(warm, workspace, strongest_walls(warm.address).tier, limits=limits)
    try:
        ended = run.wait_until_ended(20)
    finally:
        run.stop()
    assert ended is not None
    assert ended.limit == "memory"


def test_a_dead_submission_takes_no_connection(warm: WarmParent, workspace: Path) -> None:
    """Refused says why."""
    (workspace / "app.py").write_text("raise SystemExit(7)")
    run = served(warm, workspace, 3)
    try:
        assert not run.wait_until_ready(20)
        with pytest.raises(Refused, match="exit code 7"):
            run.connect()
        run.signal(signal.SIGKILL)  # too late: nobody was there to be told
        assert run.ended_by_itself
    finally:
        run.stop()


def test_who_is_killed_does_not_end_by_itself(warm: WarmParent, workspace: Path) -> None:
    """A replica that a suite kills is no crash of the submission's."""
    run = served(warm, workspace, 3)
    try:
        assert run.wait_until_ready(20)
        run.signal(signal.SIGKILL)
        assert run.wait_until_ended(20)
        assert not run.ended_by_itself
    finally:
        run.stop()


def test_a_submission_s_last_words_are_heard(warm: WarmParent, workspace: Path) -> None:
    """What it leaves with `sys.exit` is printed, as Python does."""
    (workspace / "app.py").write_text("raise SystemExit('SECRET_KEY is missing.')")
    run = served(warm, workspace, 3)
    try:
        assert not run.wait_until_ready(20)
        assert run.wait_until_ended(20) == Ended(1)
        assert run.output.text == "SECRET_KEY is missing.\n"
    finally:
        run.stop()


def test_the_parent_is_warm_and_alone(warm: WarmParent) -> None:
    """One thread, an environment without secrets, and nothing of the course or an exercise."""
    process = psutil.Process(warm.pid)
    assert process.num_threads() == 1
    assert set(process.environ()) == {"PYTHONPATH", "LANGGRAPH_STRICT_MSGPACK"}


KILLED = """
from pathlib import Path
from grader.sandbox.client import WarmParent

with WarmParent(tracks=()) as parent:
    parent.wait_until_warm()
    if parent.memory:
        (parent.memory / "some").write_text("thing")
    print(parent.pid, parent.memory or "", flush=True)
    input()
"""


def test_a_grader_that_is_killed_keeps_no_memory() -> None:
    """Its warm parent ends with it, and gives back what it had in memory."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as grader:
        assert grader.stdout
        pid, _, memory = grader.stdout.readline().decode().strip().partition(" ")
        warm = psutil.Process(int(pid))
        assert not memory or (Path(memory) / "some").exists()
        grader.kill()
    psutil.wait_procs([warm], timeout=20)
    assert not warm.is_running()
    assert not memory or not Path(memory).exists()


@pytest.mark.usefixtures("isolated")
def test_walls_that_cannot_be_built_are_nobodys_crash(warm: WarmParent, tmp_path: Path) -> None:
    """A sandbox that fails is a problem of the machine, and says which."""
    run = served(warm, tmp_path / "not there", 1)
    try:
        with pytest.raises(SandboxProblem):
            run.wait_until_ready(20)
    finally:
        run.stop()
