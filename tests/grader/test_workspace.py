"""The tree that a submission runs in: what it holds, and what it must not."""

from pathlib import Path

import pytest

from grader.catalogue import Exercise, GradingError, find
from grader.workspace import make_base


def leaving_out(*paths: str) -> Exercise:
    return find("medium/ex04").model_copy(update={"leave_out": paths})


def test_what_would_answer_it_is_left_out(tmp_path: Path) -> None:
    """A file in `leave_out` is not there, as source or compiled; its neighbours are."""
    base = make_base(leaving_out("shared/web/errors.py"), tmp_path / "base")
    found = {path.name for path in (base / "shared/web").rglob("*")}
    assert not {name for name in found if name.startswith("errors.")}
    assert "middleware.py" in found


def test_a_path_that_leads_nowhere_is_a_mistake(tmp_path: Path) -> None:
    """A slip of the pen does not leave the answer in its place."""
    with pytest.raises(GradingError, match=r"eror\.py"):
        make_base(leaving_out("shared/web/eror.py"), tmp_path / "base")
