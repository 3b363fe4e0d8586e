"""A real Redis for tests, and every way in which it can fail: see tests/advanced."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import psutil
import redis

from advanced.embedded_redis import EmbeddedRedis, embedded_redis


class Valkey:
    """A server on a port of its own, which it keeps over restarts. Made by `valkey`."""

    def __init__(self, password: str = "") -> None:
        self.password = password
        self._stack = ExitStack()
        self._server = self._start(None)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def address(self) -> dict[str, Any]:
        """For `open_redis`."""
        return {"host": "127.0.0.1", "port": self.port, "password": self.password or None}

    def ask(self, *command: str | bytes | int) -> Any:
        """A command's reply, over a connection of its own."""
        with redis.Redis(**self.address, socket_timeout=10, protocol=2) as client:
            return cast(Any, client.execute_command(*command))

    def kill(self) -> None:
        """Gone at once, as by the kernel; its port refuses connections when this returns."""
        server = psutil.Process(self._server.pid)
        server.kill()
        self._stack.close()
        assert not answers(self.port)

    def restart(self) -> None:
        """After `kill`: the same port, and nothing of what was kept."""
        self._server = self._start(self.port)

    def freeze(self) -> None:
        """It hangs: connections open, nothing is answered."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def close(self) -> None:
        self._stack.close()

    def _start(self, port: int | None) -> EmbeddedRedis:
        return self._stack.enter_context(embedded_redis(port=port, password=self.password))


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def valkey(password: str = "") -> Iterator[Valkey]:
    server = Valkey(password)
    try:
        yield server
    finally:
        server.close()
