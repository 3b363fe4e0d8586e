"""`make kit`: the students' copy of the course, without what would spoil it."""

import shutil
import subprocess
from pathlib import Path, PurePosixPath

from grader.catalogue import ROOT, GradingError

LEFT_OUT = (
    "solutions",
    "trainer-guide.md",
    "tests/exercises",
    "tests/grader",
    "exercises/AUTHORING.md",
    ".ci",
    ".github",
)


def make_kit(out: Path, root: Path = ROOT) -> int:
    """Copy into `out`, which must not be there yet; how many files. Raises GradingError."""
    if out.exists():
        raise GradingError(f"OUT={out} is there already; name a folder that is not.")
    chosen = [path for path in _tracked(root) if not is_left_out(path)]
    for path in chosen:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target, follow_symlinks=False)
    return len(chosen)


def is_left_out(path: PurePosixPath) -> bool:
    return any(path.is_relative_to(folder) for folder in LEFT_OUT)


def _tracked(root: Path) -> list[PurePosixPath]:
    """What git knows, so that nothing of somebody's working folder gets into a kit."""
    try:
        listing = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as exc:
        raise GradingError("A kit is made from a git checkout; this is none.") from exc
    names = listing.decode().split("\0")
    return [PurePosixPath(name) for name in names if name and (root / name).is_file()]
