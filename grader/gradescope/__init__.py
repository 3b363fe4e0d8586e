"""`make gradescope`: the folder that Gradescope takes as an autograder, with a kit in it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from grader.catalogue import ROOT, Exercise
from grader.kit import make_kit

HERE = Path(__file__).parent


def make_autograder(out: Path, exercises: Sequence[Exercise], root: Path = ROOT) -> int:
    """Into `out`, which must not be there yet; how many files. Raises GradingError."""
    files = make_kit(out / "course", root)
    for name in ("setup.sh", "run_autograder"):
        shutil.copy2(HERE / name, out / name)
        (out / name).chmod(0o755)
    (out / "exercises").write_text("".join(f"{exercise.short}\n" for exercise in exercises))
    return files + 3
