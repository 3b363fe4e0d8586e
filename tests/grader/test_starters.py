"""The starters are kept as the course gives them, whatever a student writes in their place."""

from pathlib import Path

from grader.catalogue import all_exercises
from grader.starters import STARTERS, as_they_are, is_untouched, note, starter
from grader.workspace import take_in


def test_what_is_kept_is_what_is_given() -> None:
    """`make starters` would change nothing."""
    assert STARTERS.read_text(encoding="utf-8") == as_they_are(), "make starters writes it anew"


def test_the_students_copy_keeps_what_it_came_with(tmp_path: Path) -> None:
    """There `make starters` would take somebody's answer for a starter; so it takes nothing."""
    kept = tmp_path / "starters.json"
    assert "nothing was changed" in note(kept, tmp_path)
    assert not kept.exists()
    assert "as they are now" in note(kept)
    assert kept.read_bytes() == STARTERS.read_bytes()


def test_every_starter_is_untouched_until_a_byte_is_another() -> None:
    """Each exercise is known; a file more, or a line more, is somebody's work."""
    for exercise in all_exercises():
        files = take_in(exercise, exercise.folder).files
        assert is_untouched(exercise, files)
        first = next(iter(files))
        assert not is_untouched(exercise, {**files, first: files[first] + b"\n"})
        assert starter(exercise) == files
