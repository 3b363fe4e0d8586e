"""The tree that a submission runs in: the course without its answers, and the student's files."""

import compileall
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grader.catalogue import Exercise, File, GradingError
from grader.starters import starter

MAX_FILE = 256 * 1024
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a named pipe would block
NEVER_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True)
class Intake:
    """What was taken from a submission, and what was wrong with it."""

    files: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    tampered: list[str] = field(default_factory=list)
    """Sentences about files that are not files. One is enough to take nothing at all."""


def take_in(exercise: Exercise, submission: Path) -> Intake:
    """Read the files that may change, and nothing else, from the folder of a submission."""
    return take(exercise, lambda path: read_file(submission, path))


def take(exercise: Exercise, read: Callable[[str], bytes]) -> Intake:
    """The same from wherever `read` finds them; it raises NotAFileError, or an OSError."""
    intake = Intake()
    for file in exercise.files:
        try:
            intake.files[file.path] = read(file.path)
        except (FileNotFoundError, NotADirectoryError):
            if not file.optional:
                intake.missing.append(f"{file.path} is missing")
        except NotAFileError as exc:
            intake.tampered.append(f"{file.path} {exc}")
        except OSError as exc:
            intake.tampered.append(f"{file.path} cannot be read ({exc.strerror})")
    return intake


class NotAFileError(Exception):
    """What lies there is no ordinary file of an ordinary size."""


def read_file(folder: Path, path: str) -> bytes:
    """Open without following a link anywhere below `folder`, and look at what was opened."""
    *parents, name = Path(path).parts
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for parent in parents:
            below = _open(parent, FLAGS | os.O_DIRECTORY, at)
            os.close(at)
            at = below
        fd = _open(name, FLAGS, at)
    finally:
        os.close(at)
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise NotAFileError("is not an ordinary file")
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise NotAFileError(f"is larger than {MAX_FILE // 1024} KiB")
    return data


def _open(name: str, flags: int, at: int) -> int:
    """NotAFileError for links and sockets, which refuse to be opened like this."""
    try:
        return os.open(name, flags, dir_fd=at)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as exc:
        kind = stat.S_IFMT(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            raise
        raise NotAFileError("is not an ordinary file") from exc


def make_base(exercise: Exercise, folder: Path) -> Path:
    """What all submissions to an exercise have in common, compiled; a workspace is a copy of it."""
    for part in ("shared", exercise.track, *exercise.include):
        _copy(exercise.root / part, folder / part)
    home = folder / exercise.home
    _copy(exercise.folder, home)
    for suite in home.glob("test_*.py"):
        suite.unlink()
    for path in exercise.leave_out:
        _take_away(folder / path)
    for file in exercise.files:
        (home / file.path).unlink(missing_ok=True)
        if file.reference:
            (folder / file.reference).unlink(missing_ok=True)
    compileall.compile_dir(folder, quiet=2)
    return folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=NEVER_COPIED, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _take_away(path: Path) -> None:
    """One that is not there is a slip of the pen that would leave the answer in its place."""
    try:
        path.unlink()
    except OSError as exc:
        raise GradingError(f"leave_out names {path.name}, which is no file here.") from exc


def assemble(exercise: Exercise, base: Path, files: dict[str, bytes], folder: Path) -> Path:
    """A workspace at `folder`: readable by everybody, since whoever runs there is nobody."""
    shutil.copytree(base, folder)
    by_path = {file.path: file for file in exercise.files}
    for path, data in files.items():
        place = folder / _place(exercise, by_path[path])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    for each in _everything(folder):
        each.chmod(0o755 if each.is_dir() else 0o644)
    return folder


def _place(exercise: Exercise, file: File) -> Path:
    return Path(file.place) if file.place else Path(exercise.home / file.path)


def _everything(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def solution_files(exercise: Exercise) -> dict[str, bytes]:
    """The solution as if somebody had handed it in; a lab's is the course itself."""
    places = {
        file.path: exercise.root / file.reference
        if file.reference
        else exercise.solution / file.path
        for file in exercise.files
    }
    try:
        return {path: place.read_bytes() for path, place in places.items()}
    except FileNotFoundError as exc:
        raise GradingError(f"There is no solution at {exc.filename}; a kit has none.") from exc


def open_book(exercise: Exercise, files: dict[str, bytes]) -> int | None:
    """How many of a hundred lines of the student's own are also in the course's own files.

    What the starter gives is nobody's. None if nothing is written yet, or there are no such files.
    """
    with_reference = [file for file in exercise.files if file.reference and file.path in files]
    try:
        course = [(exercise.root / str(file.reference)).read_bytes() for file in with_reference]
    except OSError:
        return None
    given = _all_lines(starter(exercise).values())
    written = _all_lines(files[file.path] for file in with_reference) - given
    same = written & (_all_lines(course) - given)
    return 100 * same.total() // written.total() if written else None


def _all_lines(sources: Iterable[bytes]) -> Counter[bytes]:
    return sum(map(_lines, sources), Counter())


def _lines(source: bytes) -> Counter[bytes]:
    """Only text: what a submission holds is not parsed here."""
    stripped = (line.strip() for line in source.splitlines())
    return Counter(line for line in stripped if line and not line.startswith(b"#"))


def app_name(exercise: Exercise) -> str:
    """What uvicorn is given."""
    serve = exercise.serve
    if serve is None or serve.app is None:
        return ""
    if serve.absolute:
        return serve.app
    return f"{str(exercise.home).replace('/', '.')}.{serve.app}"
