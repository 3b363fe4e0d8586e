"""What a process and all its children have used: CPU seconds and resident memory.

The kernel's own clock of a process counts nanoseconds and its ended threads; where there is none
(macOS), psutil's user + system times serve.
"""

import time
from collections.abc import Callable, Iterable

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """User + system time of the whole tree; children that ended and were waited for included."""
    return _total(tree(pid), _cpu_of)


def rss_bytes(pid: int) -> float:
    """Resident memory of the whole tree; shared pages count once per process."""
    return _total(tree(pid), lambda process: float(process.memory_info().rss))


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    ended = times.children_user + times.children_system
    return ended + (_process_clock(process.pid) or times.user + times.system)


def _process_clock(pid: int) -> float | None:
    """CLOCK_PROCESS_CPUTIME_ID of another process: what clock_getcpuclockid(3) computes on Linux.

    psutil reads ticks of 10 ms, which is the cost of a few requests.
    """
    if not psutil.LINUX:
        return None
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None


def _total(processes: Iterable[psutil.Process], read: Callable[[psutil.Process], float]) -> float:
    total = 0.0
    for process in processes:
        try:
            total += read(process)
        except psutil.NoSuchProcess:  # ended between listing and reading
            continue
    return total
