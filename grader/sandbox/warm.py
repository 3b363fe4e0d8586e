"""The warm parent: `python -m grader.sandbox.warm FD` imports what is slow, and forks keepers.

It has one thread, no secret and no expected value, for a fork inherits all of its memory. It
imports only what reads no environment on import, since a submission's settings come later.
"""

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from grader.sandbox import kernel
from grader.sandbox.cgroups import remove_left_over_groups
from grader.sandbox.keeper import Keeper, stop
from grader.sandbox.memory import give_back
from grader.sandbox.order import Line

PRELOADED = (
    "uvloop",
    "httptools",
    "orjson",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "fastapi",
    "fastapi.openapi.utils",
    "fastapi.staticfiles",
    "fastapi_offline",
    "pydantic_settings",
    "dotenv",
    "aiohttp",
    "anyio._backends._asyncio",
    "starlette.middleware.cors",
    "langchain_core.messages.block_translators.langchain_v0",
    "langchain_core.tracers.context",
    "langchain_core.tracers.run_collector",
    "langchain_core.tracers.stdout",
    "langgraph.graph",
    "langgraph.checkpoint.memory",
    "langchain_openai",
    "langchain_openai.chat_models.base",
    "openai.resources.chat.completions.completions",
    "openai.resources.chat.chat",
    "httpcore2",
)
PRELOADED_FOR = {
    "medium": (),
    "advanced": (
        "bcrypt",
        "getpass",
        "jwt",
        "langgraph.checkpoint.postgres.aio",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry.sdk.trace",
        "psycopg_pool",
        "redis.asyncio",
        "sqlite3",
        "structlog",
        "timeit",
        "wsgiref.simple_server",
    ),
}


def main() -> None:
    """Serve judges on the listening socket FD until standard input ends.

    For no track at all nothing is imported here, so that each submission starts cold.
    """
    try:
        serve(socket.socket(fileno=int(sys.argv[1])), tracks=sys.argv[3:])
    finally:
        give_back(Path(sys.argv[2]))  # the grader does it, too, unless it was killed


def serve(listener: socket.socket, tracks: list[str]) -> None:
    remove_left_over_groups()
    gc.disable()
    names = [*PRELOADED, *(name for track in tracks for name in PRELOADED_FOR[track])]
    for name in names if tracks else ():
        importlib.import_module(name)
    gc.enable()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(1, b"warm\n")
    while True:
        readable, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in readable:
            break
        connection, _ = listener.accept()
        with connection:
            if not os.fork():
                keep(connection, listener)
    end_keepers()


def end_keepers() -> None:
    """Tell all of them, and leave when they have cleaned up; a second is plenty."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    for _ in range(100):
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.01)


def keep(connection: socket.socket, listener: socket.socket) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, stop)
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        listener.close()
        Keeper(Line(connection)).serve()
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
