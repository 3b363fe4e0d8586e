"""`make serve`: an answer to an exercise is served from the student's own files."""

import os
import socket
import subprocess
import sys

import pytest

from exercises.serve import Yours, redis_for
from grader.catalogue import find
from scripts.check_docs import ROOT


def test_a_lab_s_files_take_the_places_of_the_course_s() -> None:
    """Each of the lab's modules is found in the exercise's folder, and no other module is."""
    lab = find("medium/lab")
    yours = Yours(lab)
    found = yours.find_spec("shared.agent_service", None)
    assert found is not None
    assert found.origin == str(lab.folder / "agent_service.py")
    assert yours.find_spec("shared.turns", None) is None


def test_an_answer_of_the_advanced_track_has_a_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its own, until it is not served any more, unless there is one already."""
    for name in ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"):
        monkeypatch.setenv(name, "")
    with redis_for(find("advanced/lab")):
        address = (os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"]))
        socket.create_connection(address).close()
        with redis_for(find("advanced/lab")):
            assert os.environ["REDIS_PORT"] == str(address[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_an_answer_of_the_medium_track_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there would ask it."""
    monkeypatch.delenv("REDIS_HOST", raising=False)
    with redis_for(find("medium/lab")):
        assert "REDIS_HOST" not in os.environ


def test_a_name_that_is_no_exercise_is_refused_in_one_sentence() -> None:
    """No traceback for somebody who mistypes."""
    run = subprocess.run(
        [sys.executable, "-m", "exercises.serve", "medium/nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("There is no exercise EX=medium/nothing")
    assert "Traceback" not in run.stderr
