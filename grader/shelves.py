"""What somebody handed in, as paths and bytes: a folder, a zip or a tarball. Nothing is unpacked.

An archive is refused whole when it is too large, holds too much, or leads out of itself. What it
holds is read file by file, and only as much as a file of an exercise may have.
"""

import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, TypeVar

from grader.workspace import MAX_FILE, NotAFileError, read_file

MAX_ARCHIVE = 64 * 1024 * 1024
MAX_UNPACKED = 256 * 1024 * 1024
MAX_ENTRIES = 20_000
MAX_RATIO = 200
"""An archive of text unpacks to ten times its size, or twenty."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
OTHER_ARCHIVES = (".7z", ".rar", ".xz", ".bz2", ".zst", ".gz", ".tbz2", ".txz", ".lzma", ".jar")
NOT_LOOKED_AT = {"__pycache__", "__MACOSX", "node_modules", "venv", "env"}
PIECE = 1024 * 1024
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, ValueError, OverflowError,
    NotImplementedError, IndexError,
)  # fmt: skip
"""What the libraries raise when an archive is not what it seems."""


Entry = TypeVar("Entry", zipfile.ZipInfo, tarfile.TarInfo)


class Unreadable(Exception):
    """Nothing of it can be taken; the text says why, and does not begin with its name."""


class Shelf(Protocol):
    def paths(self) -> Collection[str]:
        """Of everything that is no folder, with / between the parts."""

    def read(self, path: str) -> bytes:
        """Raises NotAFileError, FileNotFoundError, or another OSError."""


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith((*ARCHIVES, *OTHER_ARCHIVES))


def stem(path: Path) -> str:
    """An archive's name without what says that it is one."""
    ends = [end for end in (*ARCHIVES, *OTHER_ARCHIVES) if path.name.lower().endswith(end)]
    return path.name[: -len(max(ends, key=len))] if ends else path.name


@contextmanager
def opened_shelf(path: Path) -> Iterator[Shelf]:
    """Raises Unreadable."""
    kind = path.lstat().st_mode
    if stat.S_ISDIR(kind):
        yield FolderShelf(path)
        return
    if not stat.S_ISREG(kind):
        raise Unreadable("is neither a folder nor an archive")
    if not path.name.lower().endswith(ARCHIVES):
        raise Unreadable(f"is none of the kinds that are taken: {', '.join(ARCHIVES)}")
    _refuse_if(path.stat().st_size > MAX_ARCHIVE, f"is larger than {MAX_ARCHIVE >> 20} MiB")
    _refuse_if(not path.stat().st_size, "is empty")
    with ExitStack() as stack:
        try:
            shelf = _open_archive(path, stack)
        except UnicodeError as exc:
            raise Unreadable("has names that nobody can read") from exc
        except BROKEN as exc:
            raise Unreadable(f"cannot be read as an archive ({_first_words(exc)})") from exc
        yield shelf


def _open_archive(path: Path, stack: ExitStack) -> Shelf:
    if path.name.lower().endswith(".zip"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        return ZipShelf(archive, path.stat().st_size)
    file = stack.enter_context(_plain_tar(path))
    return TarShelf(stack.enter_context(tarfile.open(fileobj=file, mode="r:")))


def _refuse_if(wrong: bool, why: str) -> None:
    if wrong:
        raise Unreadable(why)


def _first_words(exc: Exception) -> str:
    """Without the path that an OSError names: pages that are sent say this."""
    text = (exc.strerror if isinstance(exc, OSError) else "") or str(exc) or type(exc).__name__
    return text.splitlines()[0][:100]


class FolderShelf:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[str] = []
        for at, folders, files in os.walk(folder, onerror=self._closed):
            here = Path(at)
            links = [name for name in folders if (here / name).is_symlink()]
            folders[:] = sorted(
                name for name in folders if name not in NOT_LOOKED_AT and not name.startswith(".")
            )
            names = (str((here / name).relative_to(folder)) for name in (*files, *links))
            self._paths += names
            _refuse_if(len(self._paths) > MAX_ENTRIES, f"holds more than {MAX_ENTRIES} files")

    def _closed(self, exc: OSError) -> None:
        within = Path(exc.filename).relative_to(self._folder)
        where = f"{within}: " if within.parts else ""
        raise Unreadable(f"cannot be read ({where}{exc.strerror})") from exc

    def paths(self) -> Collection[str]:
        return self._paths

    def read(self, path: str) -> bytes:
        return read_file(self._folder, path)


class ZipShelf:
    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check_entries([entry.filename for entry in entries])
        unpacked = sum(entry.file_size for entry in entries)
        _check_size(unpacked, size)
        self._archive = archive
        self._entries = {_tidy(entry.filename): entry for entry in entries}
        self._often = Counter(_tidy(entry.filename) for entry in entries)

    def paths(self) -> Collection[str]:
        return self._entries.keys()

    def read(self, path: str) -> bytes:
        entry = _entry(self._entries, path)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        _check_entry(kind in (0, stat.S_IFREG), self._often[path], entry.file_size)
        if entry.flag_bits & 1:
            raise NotAFileError("is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotAFileError("is packed in a way that is not taken; use plain zip")
        return _bounded(lambda: self._archive.open(entry))


class TarShelf:
    def __init__(self, archive: tarfile.TarFile) -> None:
        members = []
        for member in archive:
            members.append(member)
            _refuse_if(len(members) > MAX_ENTRIES, f"holds more than {MAX_ENTRIES} files")
        members = [member for member in members if not member.isdir()]
        _check_entries([member.name for member in members])
        self._archive = archive
        self._members = {_tidy(member.name): member for member in members}
        self._often = Counter(_tidy(member.name) for member in members)

    def paths(self) -> Collection[str]:
        return self._members.keys()

    def read(self, path: str) -> bytes:
        member = _entry(self._members, path)
        _check_entry(member.isreg() and not member.issparse(), self._often[path], member.size)
        return _bounded(lambda: self._archive.extractfile(member))


def _entry(entries: Mapping[str, Entry], path: str) -> Entry:
    if path not in entries:
        raise FileNotFoundError(path)
    return entries[path]


def _tidy(name: str) -> str:
    """Windows writes its own separators; some tools put ./ in front."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _check_entries(names: list[str]) -> None:
    _refuse_if(len(names) > MAX_ENTRIES, f"holds more than {MAX_ENTRIES} files")
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        leads_out = path.is_absolute() or ".." in path.parts or path.parts[:1] == ("~",)
        _refuse_if(leads_out, f"leads out of itself, with a path such as {name[:80]}")


def _check_size(unpacked: int, packed: int) -> None:
    _refuse_if(unpacked > MAX_UNPACKED, f"unpacks to more than {MAX_UNPACKED >> 20} MiB")
    ratio = unpacked // packed
    _refuse_if(
        unpacked > PIECE and ratio > MAX_RATIO,
        f"unpacks to {ratio} times its size, which no text does",
    )


def _check_entry(is_file: bool, often: int, size: int) -> None:
    if not is_file:
        raise NotAFileError("is not an ordinary file")
    if often > 1:
        raise NotAFileError(f"is in the archive {often} times")
    if size > MAX_FILE:
        raise NotAFileError(f"is larger than {MAX_FILE // 1024} KiB")


def _bounded(opened: Callable[[], IO[bytes] | None]) -> bytes:
    """What an archive says about a file's size need not be so."""
    try:
        with opened() or BytesIO() as file:
            data = file.read(MAX_FILE + 1)
    except BROKEN as exc:
        raise NotAFileError(f"is damaged ({_first_words(exc)})") from exc
    if len(data) > MAX_FILE:
        raise NotAFileError(f"is larger than {MAX_FILE // 1024} KiB")
    return data


@contextmanager
def _plain_tar(path: Path) -> Iterator[IO[bytes]]:
    """Unpacked into a file of our own first: `tarfile` believes the sizes that it reads."""
    if path.name.lower().endswith(".tar"):
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as plain, gzip.open(path) as file:
        while piece := file.read(PIECE):
            plain.write(piece)
            _check_size(plain.tell(), path.stat().st_size)
        plain.seek(0)
        yield plain
