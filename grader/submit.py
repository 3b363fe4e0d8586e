"""`make submit`: the student's archive, with the files that may change and nothing else."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from grader.catalogue import Exercise, GradingError
from grader.manifest import MANIFEST, Manifest, Packed, exercise_version, sha256
from grader.starters import is_untouched
from grader.state import State
from grader.words import counted
from grader.workspace import take_in

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The same files make the same archive, whenever it is made."""


def make_archive(out: Path, exercises: Sequence[Exercise], state: State) -> list[str]:
    """Write `out`, and tell what is in it, line by line. Raises GradingError."""
    packed: dict[str, Packed] = {}
    files: dict[str, bytes] = {}
    told = []
    for exercise in exercises:
        intake = take_in(exercise, exercise.folder)
        if intake.tampered:
            raise GradingError(f"{exercise.short}: {intake.tampered[0]}, so nothing was packed.")
        told += [f"{exercise.short}: {missing}" for missing in intake.missing]
        if not intake.files:
            continue
        files |= {str(exercise.home / path): data for path, data in intake.files.items()}
        tried = state.of(exercise.id)
        packed[exercise.id] = Packed(
            version=exercise_version(exercise),
            hints=tried.hints,
            files={path: sha256(data) for path, data in intake.files.items()},
        )
        names = ", ".join(intake.files)
        if is_untouched(exercise, intake.files):
            told.append(f"{exercise.short}: {names}: still the starter, which earns nothing")
        else:
            told.append(f"{exercise.short}: {names}; {counted(tried.hints, 'hint')} taken")
    if not files:
        raise GradingError("There is nothing to hand in here.")
    manifest = Manifest(exercises=packed).model_dump_json(indent=1)
    _write(out, {MANIFEST: manifest.encode() + b"\n", **files})
    return told


def _write(out: Path, files: dict[str, bytes]) -> None:
    fresh = out.with_name(f".{out.name}.new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                entry = zipfile.ZipInfo(name, LONG_AGO)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)
        fresh.replace(out)
    except OSError as exc:
        raise GradingError(f"{out} cannot be written: {exc.strerror}.") from exc
