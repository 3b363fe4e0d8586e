"""`make serve`: an answer to an exercise is served from the student's own files."""

import subprocess
import sys

from exercises.serve import Yours
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
