"""Labs are open book: the report says what share of a submission is also the course's own."""

from grader.catalogue import find
from grader.workspace import open_book, solution_files

LAB = "medium/lab"


def test_the_solution_is_the_course_itself() -> None:
    """What is copied whole is a hundred percent."""
    exercise = find(LAB)
    assert open_book(exercise, solution_files(exercise)) == 100


def test_only_lines_with_something_in_them_count() -> None:
    """Blank lines and comments are nobody's; indentation does not make a line another one."""
    files = {"main.py": b'\n# mine\n\nTITLE = "Mine"\n        VERSION = "1.0.0"\n'}
    assert open_book(find(LAB), files) == 50


def test_an_exercise_without_reference_has_no_share() -> None:
    """Where the course has no file of its own there is nothing to compare."""
    assert open_book(find("medium/ex02"), {"rate_limit.py": b"x = 1\n"}) is None
