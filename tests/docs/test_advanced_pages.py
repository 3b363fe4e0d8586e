"""The pages of the advanced exercises, followed to their ends with the right answer in place."""

import pytest

from grader.catalogue import Exercise, all_exercises
from tests.docs.readers_copy import follow_to_the_end, needs_answers

EXERCISES = [exercise for exercise in all_exercises() if exercise.track == "advanced"]


@needs_answers
@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: str(exercise.short))
def test_exercise_page_works_as_written(exercise: Exercise) -> None:
    """Each command works, and prints what the page says."""
    follow_to_the_end(exercise)
