"""The students' copy: it grades, and holds nothing that would spoil it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grader.catalogue import ROOT, GradingError
from grader.kit import make_kit

SPOILERS = ("solutions", "trainer-guide.md", "tests/exercises", "tests/grader", ".git")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("a kit is made from a git checkout")
    folder = tmp_path_factory.mktemp("out") / "kit"
    make_kit(folder)
    return folder


def grader(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The kit's own grader: the folder it is started in comes first."""
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-m", "grader", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_holds_no_spoilers(kit: Path) -> None:
    """No solution, trainer guide, known-wrong answer or private suite."""
    assert [name for name in SPOILERS if (kit / name).exists()] == []
    solution = ROOT / "solutions/medium/ex02_rate_limit_per_session/rate_limit.py"
    texts = [path.read_bytes() for path in kit.rglob("*.py")]
    assert len(texts) > 50
    assert solution.read_bytes() not in texts


def test_students_commands_work(kit: Path) -> None:
    """Grading, hints and progress, without a HOME."""
    graded = grader(kit, "grade", "medium/ex02")
    assert graded.returncode == 0, graded.stderr
    assert "0 of 100 points" in graded.stdout
    assert "hint 1 of" in grader(kit, "hint", "medium/ex02").stdout
    progress = grader(kit, "progress").stdout
    assert "0 of 100" in progress
    assert "1 of 4 hints" in progress


def test_trainers_commands_say_what_is_missing(kit: Path) -> None:
    """What needs a solution says so in one sentence."""
    for words in (["grade", "medium/ex02", "--solution"], ["verify", "medium/ex02"]):
        refused = grader(kit, *words)
        assert refused.returncode == 1
        assert len(refused.stderr.strip().splitlines()) == 1


def test_never_over_something(kit: Path) -> None:
    """A folder that is there is left alone."""
    with pytest.raises(GradingError, match="there already"):
        make_kit(kit)
