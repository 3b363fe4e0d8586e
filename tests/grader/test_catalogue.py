"""What `exercise.toml` may say, and the one sentence that says what is wrong with it."""

from pathlib import Path

import pytest

from grader.catalogue import ROOT, GradingError, all_exercises, find, load
from scripts.markdown import read_page

GOOD = (ROOT / "exercises/medium/ex02_rate_limit_per_session/exercise.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("points = 5\n", "points = 6\n", "add up to 102, not to 100"),
        ("minutes = 30", "minuets = 30", "minuets: Extra inputs are not permitted"),
        ('path = "rate_limit.py"', 'path = "../app.py"', "must be a plain path"),
        ('id = "at_once"', 'id = "idle_freed"', "two checks have the same id"),
        ('fails = ["at_once"]', 'fails = ["at_twice"]', "fails at_twice, which is no check"),
        ('fails = ["at_once"]', 'fails = ["idle_freed"]', "nobody can tell them apart"),
        ("[serve]", "[serve", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    """One sentence, with the file's name and what to mend."""
    assert old in GOOD
    (tmp_path / "exercise.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(GradingError, match=sentence) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "medium/ex02",
        "medium/ex02_rate",
        "Medium/Ex02",
        "medium/ex2",
        "exercises/medium/ex02_rate_limit_per_session/",
        "./exercises/medium/ex02_rate_limit_per_session/rate_limit.py",
        "/home/alice/course/exercises/medium/ex02_rate_limit_per_session",
        "medium\\ex02",
        "ex02_rate_limit_per_session",
    ],
)
def test_found_by_whatever_names_it_alone(name: str) -> None:
    """The beginning of its name, a path to it or into it, in any case."""
    assert find(name).id == "medium/ex02_rate_limit_per_session"


def test_a_file_below_a_folder_of_the_exercise_names_it() -> None:
    """A lab's routes, too, and the track nearest to the exercise is the one that counts."""
    assert find("exercises/medium/lab/routes/agent.py").id == "medium/lab"
    assert find("/home/medium/course/exercises/advanced/lab").id == "advanced/lab"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("medium/ex22", "Did you mean medium/ex02?"),
        ("medim/ex03", "Did you mean medium/ex03?"),
        ("medium/lap", "Did you mean medium/lab?"),
        ("medium/ex02_rate_limit_per_sesion", "Did you mean medium/ex02?"),
        ("rate_limit", "Did you mean medium/ex02 or advanced/ex03?"),
        ("ex02", "could be medium/ex02 or advanced/ex02; type more of it."),
        ("lab", "could be medium/lab or advanced/lab; type more of it."),
    ],
)
def test_near_names_are_suggested(name: str, said: str) -> None:
    """What is nearly a name, or the name of two, is not guessed at but told."""
    with pytest.raises(GradingError) as told:
        find(name)
    assert str(told.value).endswith(said)


@pytest.mark.parametrize("name", ["", "medium/ex99", "../medium", "main.py"])
def test_unknown_names_list_what_is_there(name: str) -> None:
    """Not found, and nothing near: the sentence lists the exercises."""
    with pytest.raises(GradingError, match="medium/ex02"):
        find(name)


def test_every_link_leads_somewhere() -> None:
    """What a report tells a student to read is there, and so is the place in it."""
    for exercise in all_exercises():
        for check in exercise.checks:
            if check.link:
                path, _, anchor = check.link.partition("#")
                page = read_page(ROOT / path)
                assert not anchor or anchor in page.anchors, f"{exercise.short}: {check.link}"


def test_every_exercise_reads() -> None:
    """All that are in the repository."""
    assert len(all_exercises()) >= 1
