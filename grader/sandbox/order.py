"""What the judge asks a keeper for, and how the two talk: lines of JSON, sockets beside them."""

import json
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_FDS = 8


@dataclass(frozen=True)
class Limits:
    """What one submission may use while it is served."""

    memory: int = 1024 * 1024 * 1024
    """Bytes, of all its processes together."""
    processes: int = 64
    """Threads count, too."""
    cpu_seconds: int = 60
    """Of each process."""
    file_bytes: int = 64 * 1024 * 1024
    """Of each file, and of its private folders together."""
    open_files: int = 1024
    output_bytes: int = 8 * 1024 * 1024
    """Printed in all; of that, less is kept."""


@dataclass(frozen=True)
class Forward:
    """A port inside that leads to the judge. `variable` is told where: `{port}` is replaced."""

    variable: str
    value: str


@dataclass(frozen=True)
class Order:
    """One run: an app under uvicorn, or a module as with `python -m`."""

    tier: int
    workspace: str
    app: str = ""
    factory: bool = False
    module: str = ""
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    forwards: Sequence[Forward] = ()
    writable: str = ""
    """A folder that outlives the run, as /data inside; for what has to survive a restart."""
    limits: Limits = field(default_factory=Limits)

    def as_message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Order":
        forwards = [Forward(**forward) for forward in message["forwards"]]
        return cls(**{**message, "forwards": forwards, "limits": Limits(**message["limits"])})


class Line:
    """One end of a connection between judge and keeper."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._unread = b""
        self._fds: deque[int] = deque()

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """ConnectionError if the other end has gone."""
        data = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.connection, [data], fds) if fds else 0
        self.connection.sendall(data[sent:])

    def receive(self) -> list[dict[str, Any]]:
        """The messages that came, after waiting for some; EOFError if the other end has gone."""
        data, fds, _, _ = socket.recv_fds(self.connection, 65536, MAX_FDS)
        self._fds.extend(fds)
        if not data:
            raise EOFError
        *whole, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def take_fd(self) -> int:
        return self._fds.popleft()

    def close(self) -> None:
        self.connection.close()
        while self._fds:
            os.close(self._fds.popleft())
