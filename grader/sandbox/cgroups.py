"""Limits for a whole process tree, where this system lets us set them: cgroup version 1 or 2."""

import contextlib
import os
import time
from pathlib import Path

import psutil

from grader.sandbox.order import Limits

MOUNTED = Path("/sys/fs/cgroup")


class ControlGroup:
    """A group of our own for one submission; without effect where there is nothing to write to."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._folders: list[Path] = []
        self._memory: Path | None = None
        self.parts: list[str] = []
        with contextlib.suppress(OSError):
            if (MOUNTED / "cgroup.controllers").exists():
                self._make_v2(name, limits)
            else:
                self._make_v1(name, limits)

    def _make_v2(self, name: str, limits: Limits) -> None:
        folder = self._make(MOUNTED / name)
        self._limit(folder, "memory", {"memory.max": limits.memory, "memory.swap.max": 0})
        self._limit(folder, "pids", {"pids.max": limits.processes})

    def _make_v1(self, name: str, limits: Limits) -> None:
        memory = self._make(MOUNTED / "memory" / name)
        self._limit(memory, "memory", {"memory.limit_in_bytes": limits.memory})
        self._limit(self._make(MOUNTED / "pids" / name), "pids", {"pids.max": limits.processes})

    def _make(self, folder: Path) -> Path:
        folder.mkdir()
        self._folders.append(folder)
        return folder

    def _limit(self, folder: Path, part: str, values: dict[str, int]) -> None:
        for file, value in values.items():
            if (folder / file).exists():
                (folder / file).write_text(str(value))
                self.parts.append(part)
        if part == "memory":
            self._memory = folder
        self.parts = sorted(set(self.parts))

    def add(self, pid: int) -> None:
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    @property
    def ran_out_of_memory(self) -> bool:
        if self._memory is None:
            return False
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError):
                words = dict(
                    line.split() for line in (self._memory / name).read_text().splitlines()
                )
                if int(words.get("oom_kill", 0)):
                    return True
        return False

    def remove(self) -> None:
        """After its last process has gone; the kernel may need a moment to notice."""
        for folder in self._folders:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # noqa: PTH106 - Path.rmdir does the same with a longer trace
                    break
                time.sleep(0.01)


def remove_left_over_groups() -> None:
    """Those of keepers that were killed before they could clean up."""
    found: list[Path] = []
    for pattern in ("grader-*", "*/grader-*"):
        with contextlib.suppress(OSError):  # another grader's group goes while we look: next time
            found += MOUNTED.glob(pattern)
    for folder in found:
        keeper = folder.name.removeprefix("grader-")
        if keeper.isdecimal() and not psutil.pid_exists(int(keeper)):
            with contextlib.suppress(OSError):
                folder.rmdir()
