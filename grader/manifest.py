"""`manifest.json` in what `make submit` packs: which files, of which version, after how many hints.

It is the student's, so nothing depends on it; where it disagrees with the files, that is told.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from grader.catalogue import Exercise, Strict
from grader.shelves import Shelf
from grader.workspace import NotAFileError

MANIFEST = "manifest.json"


class Packed(Strict):
    """One exercise."""

    version: str
    """Of what the exercise gives: `exercise_version`."""

    hints: int = Field(ge=0, le=1000)
    files: dict[str, str]
    """SHA-256 of each."""


class Manifest(Strict):
    format: int = 1
    exercises: dict[str, Packed]


def read_manifest(shelf: Shelf) -> tuple[Manifest | None, list[str]]:
    """None if there is none at the top; and a sentence if it cannot be understood."""
    try:
        return Manifest.model_validate_json(shelf.read(MANIFEST)), []
    except FileNotFoundError:
        return None, []
    except (OSError, NotAFileError, ValidationError):
        return None, [f"{MANIFEST} is not what make submit writes, so it was not used"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(parts: Iterator[tuple[str, bytes]]) -> str:
    """One hash of names and contents; their order counts."""
    whole = hashlib.sha256()
    for name, data in parts:
        for each in (name.encode(errors="backslashreplace"), data):
            whole.update(len(each).to_bytes(8) + each)
    return whole.hexdigest()


def exercise_version(exercise: Exercise) -> str:
    """Of what a student is given: the suite, the README, everything but the files to write."""
    theirs = {exercise.folder / file.path for file in exercise.files}
    return digest(tree(exercise.folder, theirs))


def tree(folder: Path, left_out: Collection[Path] = ()) -> Iterator[tuple[str, bytes]]:
    """The files below `folder` that somebody wrote, in order."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and path not in left_out and not hidden and path.suffix != ".pyc":
            yield path.relative_to(folder).as_posix(), path.read_bytes()
