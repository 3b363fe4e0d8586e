"""A private suite: checks of the trainer's own, on top of the exercise's."""

import json
from pathlib import Path

import pytest

from grader.catalogue import GradingError, find, private_suites
from grader.cli import main
from grader.workspace import solution_files

EXERCISE = find("medium/ex02")
DECLARED = """
share = 20
[[checks]]
id = "knows_the_secret"
points = 60
criterion = "endpoints"
proves = "A question is answered."
next = "Answer."
[[checks]]
id = "never"
points = 40
proves = "Nobody passes this."
next = "There is nothing to do."
"""
SUITE = '''
from grader.judge import check


@check("knows_the_secret")
async def test_answers(service):
    """A question is answered."""
    async with service(RATE_LIMIT_REQUESTS=5, RATE_LIMIT_WINDOW=60) as client:
        assert (await client.ask("a question of mine", "s")).status == 200


@check("never")
async def test_never(service):
    """Nobody passes this."""
    async with service(RATE_LIMIT_REQUESTS=5, RATE_LIMIT_WINDOW=60) as client:
        assert (await client.ask("a secret question", "s")).status == 418, "a secret sentence"
'''


@pytest.fixture
def private(tmp_path: Path) -> Path:
    folder = tmp_path / "private/medium/ex02"
    folder.mkdir(parents=True)
    (folder / "private.toml").write_text(DECLARED)
    (folder / "test_private_rate_limit.py").write_text(SUITE)
    return tmp_path / "private"


def test_it_decides_its_share(tmp_path: Path, private: Path) -> None:
    """80 points are the exercise's, 20 the private suite's; what that looked at stays private."""
    home = tmp_path / "class/alice" / EXERCISE.home
    home.mkdir(parents=True)
    for path, data in solution_files(EXERCISE).items():
        (home / path).write_bytes(data)
    words = ["grade", "medium/ex02", "--submissions", str(tmp_path / "class")]
    out = tmp_path / "out"
    assert main([*words, "--private", str(private), "--out", str(out), "--seed", "3"]) == 0
    results = json.loads((out / "grades.json").read_text())
    (alice,) = results["students"]
    (result,) = alice["exercises"]
    assert (result["points"], result["share"], alice["total"]) == (92, 20, 92)
    verdicts = {check["id"]: check["verdict"] for check in result["private"]["checks"]}
    assert verdicts == {"knows_the_secret": "passed", "never": "failed"}
    assert alice["criteria"][0]["criterion"] == "endpoints"
    assert (alice["criteria"][0]["earned"], alice["criteria"][0]["possible"]) == (12, 12)
    page = (out / "students/alice.html").read_text()
    assert "knows_the_secret" in page
    assert "More checks, which decide 20" in page
    for theirs in (page, (out / "gradescope/alice.json").read_text()):
        assert "a secret" not in theirs
    assert (out / "records/alice" / f"{EXERCISE.id}.private.json").exists()


def test_it_is_the_exercise_with_other_checks(private: Path) -> None:
    """The same files, served alike, under another key."""
    (suite,) = private_suites(private)
    assert (suite.id, suite.folder, suite.files) == (EXERCISE.id, EXERCISE.folder, EXERCISE.files)
    assert suite.key != EXERCISE.key
    assert [check.id for check in suite.checks] == ["knows_the_secret", "never"]
    assert suite.misconceptions == ()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("points = 60", "points = 50", "add up to 90, not to 100"),
        ("share = 20", "share = 0", "share: "),
        ('"endpoints"', '"everything"', "is none of those in grader/criteria.toml"),
    ],
)
def test_mistakes_are_named(private: Path, old: str, new: str, sentence: str) -> None:
    """As in exercise.toml: one sentence, with the file's name."""
    path = private / "medium/ex02/private.toml"
    path.write_text(DECLARED.replace(old, new))
    with pytest.raises(GradingError, match=sentence) as caught:
        private_suites(private)
    assert str(path) in str(caught.value)


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    """Whoever names a folder of suites means some."""
    with pytest.raises(GradingError, match="has no"):
        private_suites(tmp_path)
