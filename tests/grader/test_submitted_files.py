"""Files that are handed in as data: what they say is still to do, and what cannot be read."""

from pathlib import Path

import pytest

from grader.judge.documents import MOST_CHARACTERS, Unreadable, read_text, todo_for


def test_a_todo_is_found_by_the_check_that_it_names(tmp_path: Path) -> None:
    """In whichever file it stands; nothing is said for a check that no TODO names."""
    (tmp_path / "a.yaml").write_text("# TODO 1 (starts, wired): the services\nx: 1\n")
    (tmp_path / "b.conf").write_text("# TODO 2 (streams): pass it on\n")
    files = [tmp_path / name for name in ("gone.yaml", "a.yaml", "b.conf")]
    assert todo_for("wired", files) == "TODO 1: the services"
    assert todo_for("streams", files) == "TODO 2: pass it on"
    assert todo_for("limits", files) == ""
    assert todo_for("start", files) == ""


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * (MOST_CHARACTERS + 1)])
def test_what_cannot_be_read_is_refused(tmp_path: Path, data: bytes) -> None:
    """In a sentence that names the file."""
    path = tmp_path / "compose.yaml"
    with pytest.raises(Unreadable, match=r"no compose\.yaml"):
        read_text(path)
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=r"compose\.yaml"):
        read_text(path)
