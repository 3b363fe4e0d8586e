"""Each exercise's page is followed to its end, by a reader who writes the right answer."""

import pytest

from grader.catalogue import Exercise, all_exercises
from scripts.check_docs import ROOT
from scripts.markdown import SHELLS, read_page
from scripts.walkthrough import Walkthrough
from tests.docs.readers_copy import copied_for_a_reader, solve

needs_answers = pytest.mark.skipif(
    not (ROOT / "solutions").is_dir(), reason="the students' copy has no solutions"
)


@needs_answers
@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: str(exercise.short))
def test_exercise_page_works_as_written(exercise: Exercise) -> None:
    """With the answer in place, each command works and prints what the page says."""
    with copied_for_a_reader() as copy:
        solve(exercise, copy)
        page = read_page(copy / exercise.home / "README.md")
        assert any(fence.language in SHELLS for fence in page.fences)
        with Walkthrough(copy, f"make serve EX={exercise.short}") as reader:
            reader.read(page)


@needs_answers
@pytest.mark.parametrize("name", ["trainer-guide.md", "exercises/AUTHORING.md"])
def test_trainers_page_works_as_written(name: str) -> None:
    """What a trainer types, from the top, in a copy of their own."""
    with copied_for_a_reader() as copy, Walkthrough(copy) as reader:
        reader.read(read_page(copy / name))
