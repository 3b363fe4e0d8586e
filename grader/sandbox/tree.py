"""All processes of one run: what they use, and their end."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil


class Tree:
    """`root` and its descendants. In a PID namespace its end is theirs; elsewhere we remember them.

    Without a namespace, a process that leaves its parent is taken in by the keeper (Linux), or was
    seen by an earlier `look`.
    """

    def __init__(self, root: int, *, in_namespace: bool) -> None:
        self._root = root
        self._in_namespace = in_namespace
        self._seen: dict[int, psutil.Process] = {}

    def look(self) -> None:
        if not self._in_namespace:
            self._seen |= {process.pid: process for process in self._living()}

    def _living(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process().children(recursive=True)
        return []

    def memory(self) -> int:
        """Bytes that would be free without it; what it shares with its parent is counted once."""
        return sum(_resident(process) for process in self._living())

    def signal(self, number: int) -> None:
        """To the submission itself, which is the root's first child."""
        with contextlib.suppress(psutil.Error, OSError, IndexError):
            os.kill(psutil.Process(self._root).children()[0].pid, number)

    def kill(self) -> None:
        """Return when nothing of it is left."""
        if self._in_namespace:
            _kill(self._root)
        else:
            self._hunt()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._root, 0)

    def _hunt(self) -> None:
        """Stop all, so that none makes another, then kill all, until a look finds nobody."""
        for _ in range(100):
            self.look()
            alive = [process for process in self._seen.values() if _is_alive(process)]
            if not alive:
                return
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in alive:
                    _kill(process.pid, number)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.005)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _resident(process: psutil.Process) -> int:
    """The proportional share where the kernel tells it: pages of the warm parent are nobody's."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0
