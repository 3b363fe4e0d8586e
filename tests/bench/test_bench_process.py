"""CPU and memory of a process and everything that it started."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from bench.process import cpu_seconds, rss_bytes

BURN = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


Child = subprocess.Popen[str]


@contextmanager
def child(code: str, then: str = "") -> Iterator[Child]:
    """A Python process that has run `code`; it runs `then` at each line until its input closes."""
    loop = f"import sys\nprint('done', flush=True)\nfor line in sys.stdin:\n    {then or 'pass'}"
    source = f"{BURN}\n{textwrap.dedent(code)}\n{loop}\n    print('done', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for(process)
        yield process


def tell(process: Child) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(process)


def wait_for(process: Child) -> None:
    assert process.stdout
    assert process.stdout.readline() == "done\n"


def test_cpu_time_is_finer_than_a_tick() -> None:
    """3 ms of work are 3 ms each time, not 0 or 10; sleeping is free."""
    with child("", then="burn(0.003)") as busy, child("", then="time.sleep(0.05)") as asleep:
        for _ in range(5):
            before = cpu_seconds(busy.pid)
            tell(busy)
            assert 0.003 <= cpu_seconds(busy.pid) - before < 0.008
        before = cpu_seconds(asleep.pid)
        tell(asleep)
        assert cpu_seconds(asleep.pid) - before < 0.003


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux says what ended children used")
def test_children_count_while_they_run_and_after() -> None:
    """The work of a worker process is its service's; when it ends the sum does not drop."""
    with child(
        f"""
        import subprocess, sys
        subprocess.run([sys.executable, "-c", {BURN!r} + "burn(0.5)"])
        running = subprocess.Popen(
            [sys.executable, "-c", {BURN!r} + "burn(0.5); print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        running.stdout.readline()
        """
    ) as process:
        assert cpu_seconds(process.pid) > 1.0


def test_memory_is_what_was_touched() -> None:
    """30 MB more in use are seen as about 30 MB."""
    with child("held = b'x' * 30_000_000") as big, child("") as small:
        assert rss_bytes(big.pid) - rss_bytes(small.pid) == pytest.approx(30e6, rel=0.1)


def test_a_process_that_is_gone_uses_nothing() -> None:
    """Reading it is no error: services end while they are being read."""
    with child("") as process:
        pass
    assert cpu_seconds(process.pid) == rss_bytes(process.pid) == 0
