"""A Dask cluster for tests: a scheduler and two workers, each a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

from grader.catalogue import ROOT


def dask(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *words, "--no-dashboard"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def two_workers(folder: Path) -> Iterator[str]:
    """The address of their scheduler; each worker has one thread."""
    file = folder / "scheduler.json"
    where = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    processes = [dask("scheduler", *where)]
    words = ["--scheduler-file", str(file), "--nthreads", "1", "--local-directory", str(folder)]
    try:
        while not file.exists():
            assert processes[0].poll() is None
            time.sleep(0.05)
        processes += [dask("worker", *words, "--no-nanny") for _ in "12"]
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def records(out: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(out)): path.read_bytes() for path in (out / "records").rglob("*.json")
    }
    assert found
    return found
