"""A Dask cluster for tests: a scheduler and two workers, each a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client

from grader.catalogue import ROOT

START_SECONDS = 100
"""Two processes import Dask meanwhile, on a machine that may have other work."""


KEPT = """
import os, runpy, signal, sys
if sys.platform == "linux":
    from grader.sandbox import kernel
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the test is over already")
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""On Linux it ends with the test that started it, even if that is killed: a worker whose scheduler
has gone may ignore SIGTERM."""


def kept(module: str, *words: str) -> list[str]:
    """A command that runs the module for as long as this process lives."""
    return [sys.executable, "-c", KEPT, str(os.getpid()), module, *words]


def dask(folder: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            kept("dask", *words, "--no-dashboard"),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal is for the test, which ends them
        )


@contextmanager
def two_workers(folder: Path, threads: int = 1) -> Iterator[str]:
    """The address of their scheduler."""
    file = folder / "scheduler.json"
    where = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    processes = [dask(folder, "scheduler", "scheduler", *where)]
    try:
        address = written_address(file, processes[0])
        words = [address, "--nthreads", str(threads), "--local-directory", str(folder)]
        processes += [dask(folder, f"worker{n}", "worker", *words, "--no-nanny") for n in "12"]
        with Client(address, timeout=START_SECONDS) as client:
            client.wait_for_workers(2, timeout=START_SECONDS)
        yield address
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
        raise
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def written_address(file: Path, scheduler: subprocess.Popen[bytes]) -> str:
    """When all of it is there: the scheduler opens the file first, and writes it later."""
    while scheduler.poll() is None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.05)
    raise AssertionError(f"the scheduler has ended with {scheduler.returncode}")


def records(out: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(out)): path.read_bytes() for path in (out / "records").rglob("*.json")
    }
    assert found
    return found
