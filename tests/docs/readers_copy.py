"""A copy of the course for one reader: what a page has them write, score or solve stays in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from grader.catalogue import Exercise
from grader.state import State
from scripts.check_docs import ROOT
from scripts.checkpoint import catch_up, parts_of
from scripts.markdown import SHELLS, read_page
from scripts.walkthrough import Walkthrough

needs_answers = pytest.mark.skipif(
    not (ROOT / "solutions").is_dir(), reason="the students' copy has no solutions"
)
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
WRITTEN_BY_READERS = {"kept", "reports"}


@contextmanager
def copied_for_a_reader() -> Iterator[Path]:
    """The repository with an environment that is installed there already, as setup.sh sees it.

    Everybody may look into it: PostgreSQL is run by somebody else than root.
    """
    with TemporaryDirectory(prefix="reader-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield _copy(Path(folder) / "course")


def _copy(copy: Path) -> Path:
    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    for name in (".gitignore", ".env.example"):
        shutil.copy(ROOT / name, copy)
    environment = copy / ".venv"
    environment.mkdir()
    for path in (ROOT / ".venv").iterdir():
        if path.name != "installed":
            (environment / path.name).symlink_to(path)
    lock = (copy / "requirements/all.txt").read_text(encoding="utf-8")
    (environment / "installed").write_text(f"{copy}\n{lock}", encoding="utf-8")
    makefile = (copy / "Makefile").read_text(encoding="utf-8")
    python = ROOT / ".venv/bin/python"  # inside the walls, links to elsewhere lead nowhere
    (copy / "Makefile").write_text(makefile.replace("PY := .venv/bin/python", f"PY := {python}"))
    return copy


def left_out(folder: str, names: list[str]) -> set[str]:
    return LEFT_OUT(folder, names) | (WRITTEN_BY_READERS if Path(folder) == ROOT else set())


def solve(exercise: Exercise, copy: Path) -> None:
    """What the page asks its reader for on the way: the answer."""
    if exercise.folder.name == "lab":
        catch_up(exercise.id, str(parts_of(exercise)[-1].number), copy)
    else:
        solution = copy / "solutions" / exercise.id
        shutil.copytree(solution, copy / exercise.home, dirs_exist_ok=True)


def follow_to_the_end(exercise: Exercise) -> None:
    """Type the page with the answer in place. What is graded on the way is that answer."""
    with copied_for_a_reader() as copy:
        solve(exercise, copy)
        page = read_page(copy / exercise.home / "README.md")
        assert any(fence.language in SHELLS for fence in page.fences)
        with Walkthrough(copy, f"make serve EX={exercise.short}") as reader:
            reader.read(page)
        assert State(copy).of(exercise.id).earned, "the starter was graded, or nothing"
