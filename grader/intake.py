"""A folder of submissions: who handed in what, and one clear line for whatever is odd about it."""

import codecs
import difflib
import errno
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from grader.catalogue import Exercise
from grader.manifest import Manifest, exercise_version, read_manifest, sha256
from grader.shelves import NOT_LOOKED_AT, Shelf, Unreadable, is_archive, opened_shelf, stem
from grader.workspace import Intake, NotAFileError, take

HANDED_IN = "handed_in.csv"
"""Beside the submissions: who handed in when. It is the rubric's to read."""

DENIED = f"cannot be read ({os.strerror(errno.EACCES)})"
"""Whoever grades may not open it, which is nothing that a student has done to a file."""

SHOWN_EXTRAS = 3
THE_COURSES_OWN = ("solutions", "tests")
"""Who hands in a whole checkout has more answers in these."""


@dataclass(frozen=True)
class Answer:
    """What one student handed in for one exercise."""

    exercise: Exercise
    intake: Intake
    notes: Sequence[str] = ()
    """Sentences about what is odd, and costs nothing."""

    problem: str = ""
    """Why it is not graded until a person has looked at it."""

    flags: Sequence[str] = ()
    """What makes one wonder whether it is the student's own work, as it was handed in."""


@dataclass(frozen=True)
class Student:
    name: str
    """The folder's or the archive's; it may hold whatever a file name may."""

    answers: Sequence[Answer] = ()
    notes: Sequence[str] = ()
    problem: str = ""
    """Why nothing of theirs can be taken."""

    without_answers: Literal["not_handed_in", "unreadable", "not_graded"] = "not_handed_in"
    """What that makes of each exercise: nothing came, nobody can read it, a person has to look."""

    manifest: Manifest | None = None


@dataclass(frozen=True)
class Class:
    students: Sequence[Student]
    left_alone: Sequence[str] = field(default=())
    """Sentences about what lies there and is nobody's submission, or may be somebody else's."""


def take_in_class(
    folder: Path, exercises: Sequence[Exercise], reports: Path | None = None
) -> Class:
    """Everybody, by name. Raises OSError when `folder` itself cannot be read."""
    entries = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    if _is_a_course(folder, exercises):
        return Class([take_in_student(folder.resolve().name, [folder], exercises)])
    found: dict[str, list[Path]] = {}
    left_alone = []
    nobodys = {HANDED_IN, "__MACOSX"}
    if reports and reports.parent == folder.resolve():
        nobodys.add(reports.name)
    for path in entries:
        if path.name in nobodys:
            continue
        if path.name.startswith("."):
            if path.name != ".git" and (path.is_dir() or is_archive(path)):
                left_alone.append(f"{path.name} begins with a dot, so it was not looked at")
        elif path.is_symlink():
            left_alone.append(f"{path.name} is a link, and links are not followed")
        elif path.is_dir() or is_archive(path):
            found.setdefault(stem(path) if path.is_file() else path.name, []).append(path)
        else:
            left_alone.append(f"{path.name} is neither a folder nor an archive")
    students = [take_in_student(name, paths, exercises) for name, paths in found.items()]
    return Class(students, [*left_alone, *_one_but_for_case(found)])


def _one_but_for_case(names: Collection[str]) -> Iterator[str]:
    by_case: dict[str, list[str]] = {}
    for name in names:
        by_case.setdefault(name.casefold(), []).append(name)
    for alike in by_case.values():
        if len(alike) > 1:
            yield f"{' and '.join(alike)} differ in case alone, and count as {len(alike)} students"


def _is_a_course(folder: Path, exercises: Sequence[Exercise]) -> bool:
    """One student's own tree rather than a folder of them."""
    tracks = {exercise.track for exercise in exercises}
    return any((folder / home / track).is_dir() for home in ("exercises", ".") for track in tracks)


def take_in_student(name: str, paths: Sequence[Path], exercises: Sequence[Exercise]) -> Student:
    """`paths` are one folder or archive, unless they handed in several times."""
    students = [_take_in(name, path, exercises) for path in paths]
    if len(students) == 1:
        return students[0]
    names = " and ".join(path.name for path in paths)
    for student, path in zip(students, paths, strict=True):
        if student.without_answers == "unreadable":
            problem = f"handed in {names}, of which {path.name} {student.problem}; keep one of them"
            return Student(name, problem=problem, without_answers="not_graded")
    if any(_contents(student) != _contents(students[0]) for student in students):
        problem = f"handed in {names}, which differ; keep one of them"
        return Student(name, problem=problem, without_answers="not_graded")
    twice = f"handed in {names}, which hold the same"
    return replace(students[0], notes=[*students[0].notes, twice])


def _contents(student: Student) -> list[tuple[str, Intake]]:
    return [(answer.exercise.id, answer.intake) for answer in student.answers]


def _take_in(name: str, path: Path, exercises: Sequence[Exercise]) -> Student:
    try:
        return _taken(name, path, exercises)
    except Unreadable as exc:
        return Student(name, problem=str(exc), without_answers="unreadable")
    except OSError as exc:
        problem = f"cannot be read ({exc.strerror or type(exc).__name__})"
        return Student(name, problem=problem, without_answers="unreadable")


def _taken(name: str, path: Path, exercises: Sequence[Exercise]) -> Student:
    with opened_shelf(path) as shelf:
        found = {exercise.id: _places(shelf, exercise) for exercise in exercises}
        homes = {id_: _homes(places) for id_, places in found.items()}
        if not any(homes.values()):
            return _nothing_found(name, path, shelf, exercises)
        manifest, odd = read_manifest(shelf)
        answers = [
            _answer(shelf, exercise, homes[exercise.id], list(found[exercise.id]), manifest)
            for exercise in exercises
            if homes[exercise.id]
        ]
        return Student(name, answers, odd, manifest=manifest)


def _nothing_found(name: str, path: Path, shelf: Shelf, exercises: Sequence[Exercise]) -> Student:
    """An archive in the student's folder is what a learning platform makes of an upload."""
    paths = shelf.paths()
    inner = [path / each for each in paths if is_archive(Path(each))]
    if len(inner) == 1 and path.is_dir() and inner[0].is_file() and not inner[0].is_symlink():
        return take_in_student(name, inner, exercises)
    if not paths:
        return Student(name, problem="holds no file")
    problem = _misplaced(paths, exercises, is_folder=path.is_dir())
    return Student(name, problem=problem, without_answers="not_graded")


def _misplaced(paths: Collection[str], exercises: Sequence[Exercise], *, is_folder: bool) -> str:
    """What was probably meant, by a file's name."""
    archives = sorted(path for path in paths if is_archive(Path(path)))
    if archives:
        inside = "one alone would be opened" if is_folder else "archives in archives are not opened"
        return f"holds {_some(archives)} and no exercise's folder; {inside}"
    by_name = {PurePosixPath(path).name: path for path in paths}
    places = [exercise.home / file.path for exercise in exercises for file in exercise.files]
    meant = [(place, place.name) for place in places if place.name in by_name] or [
        (place, name) for place in places for name in _alike(place.name, list(by_name))
    ]
    for place, name in meant:
        return f"has {by_name[name]} where it belongs to no exercise; {place} would"
    return "holds none of the exercises' folders, such as exercises/medium/ex02_…"


# --- where an exercise lies


def _places(shelf: Shelf, exercise: Exercise) -> dict[PurePosixPath, tuple[bool, int]]:
    """The folders that look like the exercise's, and how far each is from where it should be.

    Somebody may hand in a folder in a folder, or all that they have: what lies in `exercises`
    counts more than what does not, and what lies higher more than what lies deeper.
    """
    found: dict[PurePosixPath, tuple[bool, int]] = {}
    for path in shelf.paths():
        parts = PurePosixPath(path).parts
        for at in range(1, len(parts)):
            is_folder = at + 1 < len(parts) or "." not in parts[at]  # at the end, perhaps a link
            named = is_folder and _is_called(parts[at], exercise)
            if parts[at - 1].lower() == exercise.track and named:
                outside = at < 2 or parts[at - 2].lower() != "exercises"
                found[PurePosixPath(*parts[: at + 1])] = (outside, at)
                break
    return found


def _homes(places: Mapping[PurePosixPath, tuple[bool, int]]) -> list[PurePosixPath]:
    """Where the answer is; several if nobody can say which of them is meant."""
    best = min(places.values(), default=(True, 0))
    chosen = {place for place, rank in places.items() if rank == best}
    if best[0]:
        return sorted(chosen)
    other_form = {PurePosixPath(*home.parts[:-3], *home.parts[-2:]) for home in chosen}
    return sorted(chosen | (other_form & places.keys()))


def _is_called(name: str, exercise: Exercise) -> bool:
    """By its name, its short name, or its number with another slug."""
    number = exercise.folder.name.partition("_")[0]
    return name.lower() == exercise.folder.name or name.lower().partition("_")[0] == number


# --- what is taken from there


def _answer(
    shelf: Shelf,
    exercise: Exercise,
    homes: Sequence[PurePosixPath],
    places: Sequence[PurePosixPath],
    manifest: Manifest | None,
) -> Answer:
    taken = [_take_from(shelf, exercise, home) for home in homes]
    where = " and ".join(map(str, homes))
    if any(intake != taken[0] for intake in taken):
        return Answer(exercise, taken[0], problem=f"lies in {where}, which differ; keep one")
    if denied := [line for line in taken[0].tampered if line.endswith(DENIED)]:
        return Answer(exercise, taken[0], problem=denied[0])
    notes = [
        f"{home} was taken for {exercise.home}"
        for home in homes
        if home.name != exercise.folder.name
    ]
    if len(homes) > 1:
        notes.append(f"{where} hold the same")
    notes += [
        f"{place} holds another answer, which was left out"
        for place in sorted(set(places) - set(homes))
        if place.parts[0] not in THE_COURSES_OWN
        and _take_from(shelf, exercise, place).files not in ({}, taken[0].files)
    ]
    names = _below(shelf, homes[0])
    meant = _instead(exercise, taken[0], names)
    notes += [
        f"{name} was ignored, and {path} is missing: if the one is meant for the other,"
        " rename it and hand in again"
        for path, name in meant.items()
    ]
    notes += [f"{path} {odd}" for path, data in taken[0].files.items() for odd in _oddities(data)]
    notes += _left_out(exercise, [name for name in names if name not in meant.values()])
    flags = [*_changed(shelf, exercise, homes[0]), *_not_as_submitted(manifest, exercise, taken[0])]
    return Answer(exercise, taken[0], notes, flags=flags)


def _take_from(shelf: Shelf, exercise: Exercise, home: PurePosixPath) -> Intake:
    return take(exercise, lambda path: shelf.read(str(home / path)))


def _below(shelf: Shelf, home: PurePosixPath) -> list[str]:
    paths = map(PurePosixPath, shelf.paths())
    return sorted(str(path.relative_to(home)) for path in paths if home in path.parents)


def _instead(exercise: Exercise, intake: Intake, names: Sequence[str]) -> dict[str, str]:
    """For each file that is missing, the one that was probably meant."""
    wanted = {file.path for file in exercise.files}
    others = [name for name in names if name not in wanted and name not in _given(exercise)]
    missing = [path for path in wanted if f"{path} is missing" in intake.missing]
    return {path: name for path in sorted(missing) for name in _alike(path, others)}


def _alike(wanted: str, names: Sequence[str]) -> list[str]:
    """The most similar of them, if any is: a second download, a copy, another case."""
    by_case = {name.casefold(): name for name in reversed(names)}
    found = difflib.get_close_matches(wanted.casefold(), by_case, n=1)
    return [by_case[each] for each in found]


def _oddities(data: bytes) -> Iterator[str]:
    if not data.strip():
        yield "is empty"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield "is UTF-16, which Python does not read"
        return
    try:
        data.decode()
    except UnicodeDecodeError as exc:
        yield f"is not UTF-8, from byte {exc.start} on"


def _left_out(exercise: Exercise, names: Sequence[str]) -> Iterator[str]:
    """Files of their own that they may count on."""
    known = {file.path for file in exercise.files} | _given(exercise).keys()
    extra = [name for name in names if name not in known and not _is_a_by_product(name)]
    if extra:
        was = "it was" if len(extra) == 1 else "they were"
        yield f"{_some(extra)} may not be added, so {was} left out"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_EXTRAS} more" if len(names) > SHOWN_EXTRAS else ""
    return ", ".join(names[:SHOWN_EXTRAS]) + more


def _is_a_by_product(name: str) -> bool:
    return any(part.startswith(".") or part in NOT_LOOKED_AT for part in PurePosixPath(name).parts)


def _changed(shelf: Shelf, exercise: Exercise, home: PurePosixPath) -> Iterator[str]:
    """What the course gives and they have another version of, the suite above all."""
    for name, given in _given(exercise).items():
        with suppress(OSError, NotAFileError):
            if _lines(shelf.read(str(home / name))) != _lines(given.read_bytes()):
                yield f"{name} differs from the course's, which was used"


def _lines(data: bytes) -> list[bytes]:
    """Line ends are the editor's."""
    return data.splitlines()


def _given(exercise: Exercise) -> dict[str, Path]:
    """The course's own files in the exercise's folder."""
    theirs = {file.path for file in exercise.files}
    paths = sorted(path for path in exercise.folder.rglob("*") if path.is_file())
    named = {path.relative_to(exercise.folder).as_posix(): path for path in paths}
    return {
        name: path
        for name, path in named.items()
        if name not in theirs and not _is_a_by_product(name)
    }


def _not_as_submitted(
    manifest: Manifest | None, exercise: Exercise, intake: Intake
) -> Iterator[str]:
    listed = manifest.exercises.get(exercise.id) if manifest else None
    if listed is None:
        return
    if listed.version != exercise_version(exercise):
        yield "was made with another version of the exercise"
    for path, data in intake.files.items():
        if listed.files.get(path) != sha256(data):
            yield f"{path} was changed after it was packed"
