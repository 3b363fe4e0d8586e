"""What has been graded so far, on disk: an interrupted run goes on where it was.

One line of JSON each, written whole and at once. A line that was cut short is graded again.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from grader.catalogue import GradingError, Strict
from grader.grade import Grade

NAME = "journal.jsonl"


class Entry(Strict):
    key: str
    grade: Grade


class Beginning(Strict):
    """The first line: all that is graded here is graded under one seed."""

    seed: int = Field(ge=0)


class Journal:
    """One run at a time writes it. Raises GradingError when it cannot be opened."""

    def __init__(self, folder: Path, new_seed: Callable[[], int]) -> None:
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise GradingError(f"{path} cannot be opened: {exc.strerror}.") from exc
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._fd)
            raise GradingError(f"Another run writes to {folder}; name another OUT.") from exc
        self._grades: dict[str, Grade] = {}
        self.seed = self._read(path.read_bytes(), new_seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def get(self, key: str) -> Grade | None:
        return self._grades.get(key)

    def add(self, key: str, grade: Grade) -> None:
        """Returns when it is on the disk."""
        self._grades[key] = grade
        self._write(Entry(key=key, grade=grade).model_dump_json())

    def _read(self, data: bytes, new_seed: Callable[[], int]) -> int:
        whole = data[: data.rfind(b"\n") + 1]
        os.truncate(self._fd, len(whole))
        os.lseek(self._fd, 0, os.SEEK_END)
        first, *lines = whole.splitlines() or [b""]
        for line in lines:
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError:
                continue  # of another version, or damaged
            self._grades[entry.key] = entry.grade
        try:
            return Beginning.model_validate_json(first).seed
        except ValidationError:
            os.truncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._grades.clear()
            beginning = Beginning(seed=new_seed())
            self._write(beginning.model_dump_json())
            return beginning.seed

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]
        os.fsync(self._fd)
