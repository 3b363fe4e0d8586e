"""The submission's own process, from the last privileged step to its app."""

import gc
import os
import resource
import runpy
import signal
import socket
import sys
from itertools import pairwise
from pathlib import Path

from grader.sandbox import kernel
from grader.sandbox.jail import COURSE
from grader.sandbox.order import Limits, Order

NEWEST_FD = 4096


def run(order: Order, listener: socket.socket | None, ready: int, output: int, uid: int) -> int:
    """Become the submission. `uid` 0 keeps the user. Returns the exit code of what was run."""
    _take_output(output)
    kept = sorted({0, 1, 2, ready} | ({listener.fileno()} if listener else set()))
    _close_all_but(kept)
    _limit(order.limits)
    if order.tier < 3:
        _give_up_powers(uid, isolated=order.tier == 1)
    _clean_up(order)
    gc.unfreeze()
    if order.app:
        return _serve(order, listener, ready)
    return _run_module(order)


def _take_output(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)


def _close_all_but(kept: list[int]) -> None:
    for low, high in pairwise([*kept, NEWEST_FD]):  # os.closerange(0, 0) would close them all
        os.closerange(low + 1, high)


def _limit(limits: Limits) -> None:
    wanted = {
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, most = resource.getrlimit(kind)
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (allowed, allowed))


def _give_up_powers(uid: int, *, isolated: bool) -> None:
    limits = (resource.RLIMIT_NPROC, (64, 64))
    if isolated:
        kernel.drop_bounding_set()
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if isolated:
        kernel.drop_capabilities()
    if isolated or uid:
        resource.setrlimit(*limits)  # of this user alone, who has no other processes
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a new identity forgets it


def _clean_up(order: Order) -> None:
    """Leave nothing of the parent: its signals, its environment, its way to the course's files."""
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    course = COURSE if order.tier == 1 else Path(order.workspace)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(course)
    os.umask(0o022)
    prefixes = (sys.prefix, sys.base_prefix)
    sys.path[:] = [str(course), *(path for path in sys.path if path.startswith(prefixes))]
    for path in list(sys.path_importer_cache):  # to drop all would copy the pages that hold them
        if not path.startswith(prefixes):
            del sys.path_importer_cache[path]
    sys.dont_write_bytecode = True
    sys.argv = ["uvicorn" if order.app else order.module, *order.arguments]
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115


def _serve(order: Order, listener: socket.socket | None, ready: int) -> int:
    import uvicorn  # noqa: PLC0415 - the parent has it; where there is none, nobody else needs it

    class Server(uvicorn.Server):
        """Tells the keeper when it answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            gc.enable()
            if self.started:
                os.write(ready, b"ready")

    gc.disable()  # a start makes much that stays, and would be looked through again and again
    config = uvicorn.Config(
        order.app, factory=order.factory, access_log=False, timeout_graceful_shutdown=5
    )
    server = Server(config)
    server.run(sockets=[listener] if listener else None)
    return 0 if server.started else 3


def _run_module(order: Order) -> int:
    runpy.run_module(order.module, run_name="__main__", alter_sys=True)
    return 0
