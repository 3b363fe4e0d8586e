"""`make bench-grader`: what it compares, and that nobody wins by being wrong."""

import subprocess
from pathlib import Path

import pytest

from grader.bench import COLD, Bench, lay
from grader.catalogue import ROOT, GradingError, find
from grader.sandbox.client import WarmParent

EXERCISE = find("medium/ex02")
pytestmark = pytest.mark.skipif(
    not (ROOT / "solutions").exists(), reason="a kit has no answers to measure"
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(EXERCISE, tmp_path)


def test_each_kind_is_measured(bench: Bench) -> None:
    """The solution, the starter, an alternative, and one that is wrong."""
    earned = [case.earned for case in bench.cases]
    assert (len(earned), earned[:3]) == (4, [100, 0, 100])
    assert 0 < earned[3] < 100


def test_whoever_is_wrong_is_out(bench: Bench) -> None:
    """A way that takes a wrong answer for a right one has no figure."""
    right = {case.name: case.earned == 100 for case in bench.cases}
    bench.hold(right)
    with pytest.raises(GradingError, match="wrong about starter"):
        bench.hold({**right, "starter": True})


def test_the_cold_way_has_the_same_suite(bench: Bench) -> None:
    """A plain pytest, in a copy of the course with the submission in it, finds every check."""
    course = bench._course("course")
    lay(course / EXERCISE.home, bench.cases[0])
    asked = [*bench._pytest(COLD), "--collect-only"]
    found = subprocess.run(asked, cwd=course, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("::test_") >= len(EXERCISE.checks)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
@pytest.mark.parametrize(("tracks", "ready"), [((), False), (("medium",), True)])
def test_cold_is_cold(tracks: tuple[str, ...], ready: bool) -> None:
    """Without a track, a parent has loaded nothing that a submission would find there."""
    with WarmParent(tracks=tracks) as parent:
        parent.wait_until_warm()
        loaded = Path(f"/proc/{parent.pid}/maps").read_text()
    assert ("pydantic_core" in loaded) is ready
