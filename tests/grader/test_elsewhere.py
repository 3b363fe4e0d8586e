"""Grading in other people's places: a workflow that a course calls, and Gradescope."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from grader.catalogue import ROOT, GradingError, find
from grader.gradescope import make_autograder

EXERCISE = find("medium/ex02")
WORKFLOW = ROOT / ".github/workflows/grade.yml"
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a kit has neither")


@pytest.fixture(scope="module")
def autograder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out as on Gradescope, with what is installed here."""
    home = tmp_path_factory.mktemp("gradescope")
    make_autograder(home / "source", [EXERCISE])
    return home


def run(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [home / "source/run_autograder"],
        env={"PATH": os.environ["PATH"], "AUTOGRADER": str(home), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def results(home: Path) -> dict[str, object]:
    found = json.loads((home / "results/results.json").read_text())
    assert isinstance(found, dict)
    return found


def test_gradescope_gets_its_results(autograder: Path) -> None:
    """A starter, as Gradescope lays it out: no points, a test for each check, exit code 0."""
    home = autograder / "submission" / EXERCISE.home
    shutil.copytree(EXERCISE.folder, home)
    done = run(autograder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(autograder)["score"] == 0
    tests = results(autograder)["tests"]
    assert isinstance(tests, list)
    assert len(tests) == len(EXERCISE.checks)
    assert "TODO" in str(tests)


def test_gradescope_is_told_what_is_odd(autograder: Path) -> None:
    """What lies in no exercise's folder is told in words, and the score is 0."""
    shutil.rmtree(autograder / "submission", ignore_errors=True)
    (autograder / "submission").mkdir()
    (autograder / "submission/rate_limit.py").write_text("x = 1\n")
    done = run(autograder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(autograder)["score"] == 0
    assert "belongs to no exercise" in str(results(autograder)["output"])


def test_gradescope_is_told_when_it_fails(tmp_path: Path) -> None:
    """A grader that does not start still leaves results, and an exit code."""
    make_autograder(tmp_path / "source", [EXERCISE])
    (tmp_path / "source/exercises").write_text("medium/ex99\n")
    (tmp_path / "submission").mkdir()
    assert run(tmp_path).returncode == 1
    assert results(tmp_path)["score"] == 0


def test_the_autograder_holds_no_spoilers(autograder: Path) -> None:
    """Students may get to see it: it has what the kit has."""
    assert not (autograder / "source/course/solutions").exists()
    with pytest.raises(GradingError, match="there already"):
        make_autograder(autograder / "source", [EXERCISE])


def test_scripts_are_sound() -> None:
    """A shell reads them."""
    for name in ("setup.sh", "run_autograder"):
        subprocess.run(["sh", "-n", ROOT / "grader/gradescope" / name], check=True)


def test_the_workflow_is_one() -> None:
    """GitHub's schema takes it, and no input gets into a shell but through the environment."""
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    subprocess.run([sys.executable, *words, WORKFLOW], check=True, capture_output=True)
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["grade"]["steps"]
    assert [step["run"] for step in steps if "${{" in step.get("run", "")] == []


@pytest.mark.parametrize(("where", "folder"), [("", "handed-in"), ("all", "handed-in/repo/all")])
def test_the_workflow_grades(tmp_path: Path, where: str, folder: str) -> None:
    """Its step tells `make grade` what to do: one repository, or a folder in it."""
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["grade"]["steps"]
    command = next(step["run"] for step in steps if step.get("name") == "Grade")
    (tmp_path / "course").symlink_to(ROOT)
    said = subprocess.run(
        ["bash", "-c", command.replace("make ", "make -n ", 1)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "EX": "medium/ex02", "WHERE": where, "REPOSITORY": "repo"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f'-m grader grade medium/ex02 --submissions "{tmp_path / folder}"' in said
    assert f'--out "{tmp_path / "reports"}"' in said
