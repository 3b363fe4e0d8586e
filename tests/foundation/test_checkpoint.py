"""`make checkpoint` brings a lab up to a part, loses nothing, and refuses what it does not know."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from grader.catalogue import ROOT, Exercise, all_exercises
from grader.starters import starter
from scripts.checkpoint import TODO, NoCheckpoint, catch_up, parts_of

LABS = [exercise for exercise in all_exercises() if any(file.step for file in exercise.files)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The course's labs as a student gets them, and the files that solve them."""
    for lab in LABS:
        shutil.copytree(lab.folder, tmp_path / lab.home)
        for path, data in starter(lab).items():
            (tmp_path / lab.home / path).write_bytes(data)
        for file in lab.files:
            assert file.reference
            target = tmp_path / file.reference
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file.reference, target)
    shutil.copytree(ROOT / "exercises/medium/ex02_rate_limit_per_session", tmp_path / EXERCISE)
    return tmp_path


EXERCISE = "exercises/medium/ex02_rate_limit_per_session"


def text_of(root: Path, lab: Exercise) -> dict[str, str]:
    return {file.path: (root / lab.home / file.path).read_text() for file in lab.files}


def todos(root: Path, lab: Exercise) -> set[int]:
    return {int(n) for text in text_of(root, lab).values() for n in TODO.findall(text)}


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: str(lab.id))
def test_every_file_has_its_part(lab: Exercise) -> None:
    """A lab's parts are numbered from 1, share its TODOs and its minutes, and have its files."""
    parts = parts_of(lab)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert all(first.last_todo < second.last_todo for first, second in pairwise(parts))
    assert sum(part.minutes for part in parts) == lab.minutes
    assert {file.step for file in lab.files} <= {part.number for part in parts}


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: str(lab.id))
def test_last_part_is_the_whole_answer(root: Path, lab: Exercise) -> None:
    """Going through all parts ends with the course's own files, each of the student's kept."""
    for part in parts_of(lab):
        before = todos(root, lab)
        catch_up(lab.id, str(part.number), root)
        assert todos(root, lab) <= {todo for todo in before if todo > part.last_todo}
        for name, text in text_of(root, lab).items():
            if name.endswith(".py"):
                compile(text, name, "exec")
    for file in lab.files:
        assert file.reference
        assert (root / lab.home / file.path).read_text() == (root / file.reference).read_text()


def test_later_parts_stay_to_be_done(root: Path) -> None:
    """In a file of several parts, what nobody has begun still says its TODO."""
    catch_up("medium/lab", "3", root)
    service = (root / "exercises/medium/lab/agent_service.py").read_text()
    assert "self.turns.open(session_id, work)" in service
    assert "TODO 7" not in service
    assert "TODO 11" in service


def test_nothing_is_lost(root: Path) -> None:
    """Each time, what the student had goes into a folder of its own, and the line says which."""
    mine = root / "exercises/medium/lab/main.py"
    for number, text in ((1, "first = 1\n"), (2, "this does not ( parse\n")):
        mine.write_text(text)
        said = catch_up("medium/lab", "2", root)
        assert said.count("\n") == 0
        assert f"kept/medium/lab/{number}" in said
        assert (root / f"kept/medium/lab/{number}/main.py").read_text() == text
    assert (root / "kept/medium/lab/1/main.py").read_text() == "first = 1\n"


def test_one_command_goes_back(root: Path) -> None:
    """The line that says what was kept ends with what to type, and that gives it all back."""
    lab = next(lab for lab in LABS if lab.short == "medium/lab")
    for path in ("main.py", "routes/agent.py"):
        (root / lab.home / path).write_text(f"# mine, {path}\n")
    before = text_of(root, lab)
    command = catch_up("medium/lab", "5", root).partition("to go back: ")[2]
    assert text_of(root, lab) != before
    subprocess.run(command.split(), cwd=root, check=True)
    assert text_of(root, lab) == before


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: str(lab.id))
def test_what_a_student_had_makes_no_difference(root: Path, lab: Exercise) -> None:
    """A checkpoint is the same for whoever has begun later parts, finished all, or written rot."""
    for part in parts_of(lab):
        catch_up(lab.id, "0", root)
        catch_up(lab.id, str(part.number), root)
        fresh = text_of(root, lab)
        catch_up(lab.id, str(len(parts_of(lab))), root)
        catch_up(lab.id, str(part.number), root)
        assert text_of(root, lab) == fresh
        for file in lab.files:
            (root / lab.home / file.path).write_text("this does not ( parse\n")
        catch_up(lab.id, str(part.number), root)
        assert text_of(root, lab) == fresh


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: str(lab.id))
def test_nought_is_the_starter(root: Path, lab: Exercise) -> None:
    """N=0 gives back every byte of it, also of a file that was deleted."""
    catch_up(lab.id, "7", root)
    (root / lab.home / lab.files[0].path).unlink()
    assert "as it was given to you" in catch_up(lab.id, "0", root)
    assert {path: text.encode() for path, text in text_of(root, lab).items()} == starter(lab)


def test_second_time_changes_nothing(root: Path) -> None:
    """Where the student is already, nothing is copied."""
    catch_up("medium/lab", "4", root)
    assert "nothing was changed" in catch_up("medium/lab", "4", root)
    assert [folder.name for folder in (root / "kept/medium/lab").iterdir()] == ["1"]


@pytest.mark.parametrize("number", ["8", "", "x", "-1"])
def test_unknown_part_is_one_sentence(root: Path, number: str) -> None:
    """It says which parts there are, and touches nothing."""
    with pytest.raises(NoCheckpoint, match=r"there are: 0 \(.+\), 1 \(.+\), .*7 \(Document\)\.$"):
        catch_up("medium/lab", number, root)
    assert not (root / "kept").exists()


@pytest.mark.parametrize("name", ["medium/ex02", "medium/ex99", ""])
def test_only_labs_have_checkpoints(root: Path, name: str) -> None:
    """An exercise has no parts, and what is not there has none either."""
    with pytest.raises(NoCheckpoint):
        catch_up(name, "1", root)
