"""A folder in memory, for many files that are soon gone, where this system has plenty of it."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has a name that nobody can guess
PLENTY = 4 * 1024**3


def memory_for(folder: Path) -> Path | None:
    """A new one that goes with `folder`; None where four gigabytes are not free."""
    with suppress(OSError):
        if shutil.disk_usage(MEMORY).free > PLENTY:
            beside = _beside(folder)
            beside.mkdir(mode=0o711)
            return beside
    return None


def give_back(folder: Path) -> None:
    """Remove what goes with `folder`, if there is something; of somebody else's, nothing."""
    beside = _beside(folder)
    with suppress(OSError):
        if not beside.is_symlink() and beside.stat().st_uid == os.getuid():
            shutil.rmtree(beside, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return MEMORY / f"of-{folder.name}"
