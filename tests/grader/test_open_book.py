"""Labs are open book: the report says what share of somebody's own lines is the course's, too."""

from grader.catalogue import find
from grader.starters import starter
from grader.workspace import open_book, solution_files

LAB = find("medium/lab")


def test_the_solution_is_the_course_itself() -> None:
    """What is copied whole is a hundred percent."""
    assert open_book(LAB, solution_files(LAB)) == 100


def test_what_the_starter_gives_is_nobodys() -> None:
    """An untouched starter has no share, and one line of one's own is all that is compared."""
    files = starter(LAB)
    assert open_book(LAB, files) is None
    files["main.py"] += b'MINE = "only here"\n'
    assert open_book(LAB, files) == 0


def test_only_lines_with_something_in_them_count() -> None:
    """Blank lines and comments are nobody's; indentation does not make a line another one."""
    theirs = b"add_edge(app)"
    assert theirs in (LAB.root / "medium/app/main.py").read_bytes()
    files = {"main.py": b"\n# mine\n\nMINE = 1\n        " + theirs + b"\n"}
    assert open_book(LAB, files) == 50


def test_an_exercise_without_reference_has_no_share() -> None:
    """Where the course has no file of its own there is nothing to compare."""
    assert open_book(find("medium/ex02"), {"rate_limit.py": b"x = 1\n"}) is None
