"""The starters as the course gives them: whoever works on one writes over it in its place.

`starters.json` beside this has them, line by line; `make starters` takes them from the exercises'
folders, and is for whoever changes an exercise.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from grader.catalogue import ROOT, Exercise, all_exercises

STARTERS = Path(__file__).with_name("starters.json")


def starter(exercise: Exercise) -> dict[str, bytes]:
    """Its files by their paths; none of an exercise that is not the course's."""
    return {path: "".join(lines).encode() for path, lines in _kept().get(exercise.id, {}).items()}


def is_untouched(exercise: Exercise, files: Mapping[str, bytes]) -> bool:
    """Whether nobody has written anything yet."""
    return dict(files) == starter(exercise)


def as_they_are() -> str:
    """What `starters.json` is to hold, from the exercises' folders."""
    found = {
        exercise.id: {
            file.path: path.read_text(encoding="utf-8").splitlines(keepends=True)
            for file in exercise.files
            if (path := exercise.folder / file.path).exists()
        }
        for exercise in all_exercises()
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


@cache
def _kept() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(STARTERS.read_text(encoding="utf-8"))
    return found


def note(kept: Path = STARTERS, root: Path = ROOT) -> str:
    """Write them down, but never a student's work in their place; what to say."""
    if not (root / "solutions").is_dir():
        return "The students' copy keeps the starters that it came with; nothing was changed."
    kept.write_text(as_they_are(), encoding="utf-8")
    return f"{kept.name} has the starters as they are now."


if __name__ == "__main__":
    print(note())
