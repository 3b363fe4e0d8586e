"""The Makefile explains itself, hands settings on, and ends quietly."""

import os
import shutil
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.check_docs import ROOT, makefile_targets

PYTHON = """#!/bin/sh
trap 'echo stopped; exit 0' INT
echo "PORT=$PORT $*"
[ ! -e wait ] || while :; do sleep 0.05; done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The real Makefile, over stand-ins that only say what they were called with."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/setup.sh").write_text('echo "setup $1"\n')
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **settings}


def make(folder: Path, *words: str, **settings: str) -> str:
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_make_alone_lists_every_target(folder: Path) -> None:
    """Each target has its line, below whom it is for, in 80 columns and without colour."""
    first, *lines = make(folder).splitlines()
    assert first == "usage: make TARGET"
    listed: dict[str, str] = {}
    for before, line in pairwise(["", *lines]):
        if line.endswith(":"):
            assert before == ""
            heading = line
        elif line:
            target, what = line.split(None, 1)
            assert line.startswith("  ")
            assert what.strip()
            listed[target] = heading
    assert listed.keys() == makefile_targets(ROOT)
    assert len(set(listed.values())) == 4
    whose = {target: listed[target] for target in ("medium", "hint", "kit", "verify")}
    assert list(whose.values()) == list(dict.fromkeys(listed.values()))
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in "".join(lines)


def test_port_is_handed_on(folder: Path) -> None:
    """PORT= works after `make medium` and before it."""
    for said in (make(folder, "medium", "PORT=9000"), make(folder, "medium", PORT="9000")):
        assert said == "setup medium\nPORT=9000 -m shared.serve medium.app.main:app\n"


def test_arguments_go_on_to_pytest(folder: Path) -> None:
    """ARGS= comes last, so that it can overrule."""
    said = make(folder, "test", "ARGS=-n0 tests/docs")
    assert said.startswith("setup all\n")
    assert said.endswith(" -n0 tests/docs\n")


def test_ctrl_c_stops_quietly(folder: Path) -> None:
    """The service ends, and make adds no error of its own."""
    (folder / "wait").touch()
    process = subprocess.Popen(
        ["make", "medium"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout
        while "shared.serve" not in process.stdout.readline():
            pass
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
