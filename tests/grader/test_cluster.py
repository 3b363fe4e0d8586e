"""The same class on a cluster: two workers, equal verdicts, nothing of a submission unpickled."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client, Future
from distributed.protocol.serialize import serialize

from grader.batch import Suites
from grader.catalogue import ROOT, find
from grader.cli import main
from grader.cluster import SentGrade, SentJob, _as_bytes, grade_there
from grader.workspace import Intake
from tests.grader.clusters import records, two_workers
from tests.grader.synthetic import make_class

EXERCISE = find("medium/ex02")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with two_workers(tmp_path_factory.mktemp("dask")) as address:
        yield address


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("class") / "submissions"
    folder.mkdir()
    make_class(folder, [EXERCISE], 4, seed=3, quick=True, harmless=True)
    return folder


def grade(submissions: Path, out: Path, *more: str) -> int:
    words = ["grade", "medium/ex02", "--submissions", str(submissions), "--out", str(out)]
    return main([*words, "--seed", "11", *more])


@pytest.fixture(scope="module")
def graded_there(submissions: Path, scheduler: str) -> Path:
    out = submissions.with_name("there")
    assert grade(submissions, out, "--scheduler", scheduler) == 0
    return out


def test_workers_keep_nothing_running(graded_there: Path, scheduler: str) -> None:
    """When the batch is over, nothing of it is left on a worker."""
    with Client(scheduler) as client:
        workers = client.run(os.getpid)
    assert len(workers) == 2
    left = [psutil.Process(pid).children(recursive=True) for pid in workers.values()]
    assert left == [[], []]


STARTS = """
import sys, time
from pathlib import Path
from tests.grader.clusters import two_workers
with two_workers(Path(sys.argv[1])):
    print("there", flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends with its parent")
def test_no_worker_outlives_a_test_that_is_killed(tmp_path: Path) -> None:
    """Neither the scheduler nor its workers, which have sessions of their own."""
    test = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    with test:
        assert test.stdout
        assert test.stdout.readline() == b"there\n"
        family = psutil.Process(test.pid).children(recursive=True)
        test.kill()
    assert len(family) == 3
    _, alive = psutil.wait_procs(family, timeout=10)
    for each in alive:
        each.kill()
    assert alive == []


def test_equal_verdicts(submissions: Path, graded_there: Path, tmp_path: Path) -> None:
    """Each record is the same bytes, wherever it was made."""
    assert grade(submissions, tmp_path) == 0
    assert records(graded_there) == records(tmp_path)


class Bomb:
    """What unpickles to a file that should not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_nothing_of_a_submission_is_unpickled(tmp_path: Path, scheduler: str) -> None:
    """What goes there and what comes back are bytes, which Dask sends as they are."""
    bomb = pickle.dumps(Bomb(tmp_path / "found"))
    pickle.loads(bomb)  # noqa: S301 - to see that it goes off
    assert (tmp_path / "found").exists(), "the bomb is one"
    (tmp_path / "found").unlink()
    job = Suites().job(EXERCISE, Intake({"rate_limit.py": bomb}), seed=1)
    sent = _as_bytes(job, 3)
    header, frames = serialize(sent)
    assert header.get("serializer") != "pickle"
    assert [bytes(frame) for frame in frames] == [sent]
    with Client(scheduler) as client:
        future: Future[bytes] = client.submit(grade_there, client.scatter(sent, hash=False))
        came = future.result()
    header, frames = serialize(came)
    assert (type(came), header.get("serializer") == "pickle") == (bytes, False)
    assert not (tmp_path / "found").exists()


def test_another_version_of_the_course(tmp_path: Path) -> None:
    """A worker whose suite is another one says so, and grades nothing."""
    job = Suites().job(EXERCISE, Intake({"rate_limit.py": b""}), seed=1)
    sent = SentJob.model_validate_json(_as_bytes(job, 3))
    other = sent.model_copy(update={"suite": "0" * 64})
    came = SentGrade.model_validate_json(grade_there(other.model_dump_json().encode()))
    assert came.grade is None
    assert came.again or "another version" in came.problem


def test_whatever_happens_comes_back_as_text() -> None:
    """An exception would travel as a pickle."""
    came = SentGrade.model_validate_json(grade_there(b"nothing that it knows"))
    assert "ValidationError" in came.problem


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An address where no scheduler is: one sentence, and exit code 1."""
    (tmp_path / "class/alice/medium/ex02").mkdir(parents=True)
    (tmp_path / "class/alice/medium/ex02/rate_limit.py").write_text("x = 1\n")
    words = ["grade", "medium/ex02", "--submissions", str(tmp_path / "class")]
    words += ["--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:9"]
    assert main(words) == 1
    assert "No Dask scheduler answers" in capsys.readouterr().err
