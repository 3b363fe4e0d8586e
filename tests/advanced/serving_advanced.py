"""The advanced service under test: its processes, its model, its Redis, and users who log in."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import psutil

from advanced.app.config import Settings
from advanced.app.users import set_password
from shared.offline_model import OfflineModel
from tests.serving import KEY, TRACEBACK, Listener, with_model
from tests.valkey import Valkey, valkey

SECRET_KEY = "b5e2c9f07a41d68392fe60b7c8d1a35410fb9ed26c7853a4de91f6b80c2745ea"
"""What the services sign their tokens with: tests forge them."""

PASSWORDS = {"carol": "carols-own-password", "dave": "daves-own-password"}
"""The users, in every service."""

LOGIN, LOGOUT = "/api/v1/auth/login", "/api/v1/auth/logout"
SERVE = ("-m", "advanced.serve")
UVICORN = ("-m", "uvicorn", "advanced.app.main:app", "--port", "0", "--backlog", "2048")

NOTHING_SET = dict.fromkeys([*Settings.model_fields, "SECRETS_DIR"], "")
"""Empty counts as not set: no variable of whoever runs the tests decides how they go."""

LISTENS = {
    SERVE: r"The agent is at http://127\.0\.0\.1:(\d+)",  # all workers are ready then
    UVICORN: r"running on http://127\.0\.0\.1:(\d+)",
}


@dataclass
class Advanced:
    """A service that runs, and the world around it."""

    process: Listener
    model: OfflineModel
    redis: Valkey | None
    """Its own; None if the test asked for none."""
    state: Path
    """Its STATE_DIR, with the users' file and the sessions' file in it."""

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def users_file(self) -> Path:
        return self.state / "users.json"

    def client(self, token: str | None = None, **headers: str) -> httpx.AsyncClient:
        """A client that waits longer than any deadline, logged in if it has a token."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(30.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
            verify=no_certificates(),
        )

    def log_in(self, name: str = "carol") -> str:
        """A new token."""
        form = {"username": name, "password": PASSWORDS[name]}
        with httpx.Client(base_url=self.url, trust_env=False, verify=no_certificates()) as client:
            response = client.post(LOGIN, data=form)
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    def user(self, name: str = "carol", **headers: str) -> httpx.AsyncClient:
        """A client of a user who has just logged in."""
        return self.client(self.log_in(name), **headers)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve; with WORKERS=1 that is the one that was started."""
        children = psutil.Process(self.process.pid).children()
        found = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return sorted(found, key=lambda child: child.pid) or [psutil.Process(self.process.pid)]

    def worker_of(self, response: httpx.Response) -> int:
        """The process id of the worker at the other end of the response's connection."""
        _, port = response.extensions["network_stream"].get_extra_info("client_addr")
        for worker in self.workers():
            if any(c.raddr[1:] == (port,) for c in worker.net_connections("tcp4")):
                return worker.pid
        raise AssertionError(f"no worker has the connection from port {port}")


@cache
def no_certificates() -> ssl.SSLContext:
    """There are none to check, and loading the usual ones takes 0.1 s a client."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def make_users(state: Path) -> None:
    """The users' file; the hashes are cheap, so that logins cost milliseconds."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, password in PASSWORDS.items():
        set_password(state / "users.json", name, password, cost=4)


def settings(state: Path, **more: str) -> dict[str, str]:
    """The environment of a service as tests want it: its own key, its own users, nobody limited."""
    usual = {
        "STATE_DIR": str(state),
        "PORT": "0",
        "SECRET_KEY": SECRET_KEY,
        "DEMO_USERS": "false",
        "RATE_LIMIT_REQUESTS": "1000000",
    }
    return {**NOTHING_SET, **usual, **more}


@contextmanager
def served_advanced(
    folder: Path,
    state: Path,
    *,
    command: tuple[str, ...] = SERVE,
    model: OfflineModel | None = None,
    redis: bool = True,
    **more: str,
) -> Iterator[Advanced]:
    """The service, run by `command` in `folder`; a model and a Redis of its own unless given."""
    make_users(state)
    with ExitStack() as stack:
        model = model or stack.enter_context(OfflineModel(api_key=KEY))
        server = stack.enter_context(valkey()) if redis else None
        address = {"REDIS_ENABLED": "false"} if server is None else redis_settings(server)
        environment = settings(state, **with_model(model), **{**address, **more})
        process = stack.enter_context(Listener(command, folder, environment, LISTENS[command]))
        service = Advanced(process, model, server, state)
        yield service
        process.stop()
        assert process.failure_expected or not failures(process.output), process.output


def redis_settings(server: Valkey) -> dict[str, str]:
    return {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "REDIS_PASSWORD": server.password,
    }


def failures(output: str) -> list[str]:
    """Lines that tell of an exception which nobody foresaw, in plain text or in the JSON logs."""
    return [line for line in output.splitlines() if TRACEBACK in line or '"exception":' in line]
