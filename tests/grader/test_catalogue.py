"""What `exercise.toml` may say, and the one sentence that says what is wrong with it."""

from pathlib import Path

import pytest

from grader.catalogue import ROOT, GradingError, all_exercises, find, load

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


def test_found_by_the_beginning_of_its_name() -> None:
    """medium/ex02 is enough, with or without the folder above it."""
    assert find("medium/ex02") == find("exercises/medium/ex02_rate_limit_per_session/")


@pytest.mark.parametrize("name", ["", "medium/ex99", "../medium"])
def test_unknown_names_list_what_is_there(name: str) -> None:
    """Not found: the sentence lists the exercises."""
    with pytest.raises(GradingError, match="medium/ex02"):
        find(name)


def test_every_exercise_reads() -> None:
    """All that are in the repository."""
    assert len(all_exercises()) >= 1
