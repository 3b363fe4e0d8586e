"""Submissions that want points, or harm: none earns any, harms another, or outlives its turn."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from grader.catalogue import Exercise
from grader.report import Report, Verdict
from grader.runner import Grader
from grader.workspace import Intake, solution_files, take_in
from tests.grader.hostile import ATTACKS, NO_FILES, armed, make_exercise

MOST_SECONDS = 30.0
"""What the exercise gives all checks together, and the start of a judge on a busy machine."""


@dataclass
class Batch:
    """All of them, graded side by side while the tests look at the first."""

    attacks: dict[str, Future[Report]]
    honest: list[Future[Report]]


@pytest.fixture(scope="module")
def exercise(tmp_path_factory: pytest.TempPathFactory) -> Exercise:
    return make_exercise(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def batch(grader: Grader, exercise: Exercise) -> Iterator[Batch]:
    if grader.tier != 1:
        pytest.skip("they are let loose behind the walls of the first tier only")

    def grade(files: dict[str, bytes]) -> Report:
        return grader.grade(exercise, Intake(files), seed=7)

    with ThreadPoolExecutor(4) as pool:
        batch = Batch({}, [])
        for number, attack in enumerate(ATTACKS):
            batch.attacks[attack.stem] = pool.submit(grade, {"rate_limit.py": armed(attack)})
            if number % 10 == 5:
                batch.honest.append(pool.submit(grade, solution_files(exercise)))
        yield batch


@pytest.fixture(params=[attack.stem for attack in ATTACKS])
def report(request: pytest.FixtureRequest, batch: Batch) -> Report:
    return batch.attacks[request.param].result()


def printed(report: Report) -> str:
    return "".join(check.result.printed for check in report.checks if check.result)


def test_earns_nothing(report: Report) -> None:
    """No attack earns a point, and every check is decided: it is the submission's own fault."""
    assert report.earned == 0
    verdicts = {check.id: check.verdict for check in report.checks}
    assert not {Verdict.PASSED, Verdict.COULD_NOT_TELL} & set(verdicts.values()), verdicts


def test_finds_nothing(report: Report) -> None:
    """What an attack looks for is not there; each prints "found" if it is."""
    assert "found" not in printed(report)


def test_is_over_in_time(report: Report) -> None:
    """No submission takes longer than the exercise allows."""
    assert report.seconds < MOST_SECONDS


def test_honest_ones_are_unharmed(batch: Batch) -> None:
    """A good answer earns everything although hostile ones run beside and before it."""
    assert len(batch.honest) >= 5
    assert [report.result().earned for report in batch.honest] == [100] * len(batch.honest)


def test_nothing_is_left(batch: Batch, grader: Grader) -> None:
    """No process of a submission, no control group and no workspace is there afterwards."""
    assert all(report.result() for report in [*batch.attacks.values(), *batch.honest])
    mine = str(grader.warm.folder)
    theirs = [p for p in psutil.process_iter() if p.pid != grader.warm.pid and mine in words(p)]
    assert theirs == []
    groups = Path("/sys/fs/cgroup").glob("**/grader-*")
    left = [group for group in groups if not psutil.pid_exists(int(group.name.split("-")[1]))]
    assert left == []
    assert sorted(path.name for path in grader.warm.folder.iterdir()) == ["base", "warm.sock"]


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_read(kind: str, tmp_path: Path, exercise: Exercise) -> None:
    """Links, pipes, devices and the like are refused without being opened, or even waited for."""
    NO_FILES[kind](tmp_path / "rate_limit.py")
    started = time.monotonic()
    intake = take_in(exercise, tmp_path)
    assert intake.files == {}
    assert len(intake.tampered) == 1
    assert time.monotonic() - started < 1


def test_only_declared_files_enter(tmp_path: Path, exercise: Exercise) -> None:
    """conftest.py, pytest.ini, .pth and files with odd names stay outside."""
    odd = ["conftest.py", "pytest.ini", "evil.pth", "a\nb.py", "-rf", "\x1b[2J.py", "rate_limit.PY"]
    for name in odd:
        (tmp_path / name).write_text("raise SystemExit")
    (tmp_path / "rate_limit.py").write_text("good = True")
    assert take_in(exercise, tmp_path) == Intake({"rate_limit.py": b"good = True"})


def test_tampering_is_a_verdict(grader: Grader, exercise: Exercise, tmp_path: Path) -> None:
    """A submission with something that is no file is not run, and each check says so."""
    os.mkfifo(tmp_path / "rate_limit.py")
    report = grader.grade(exercise, take_in(exercise, tmp_path), seed=1)
    assert {check.verdict for check in report.checks} == {Verdict.TAMPERED}
    assert report.earned == 0
