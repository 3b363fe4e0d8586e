"""`python -m shared.serve APP`: run an app here, with an offline model if there is no key.

HOST and PORT say where, by default 127.0.0.1:8000. Ctrl-C stops everything that was started here.
"""

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn
from dotenv import dotenv_values

from shared.offline_model import OfflineModel, Scenario

ENV_FILE = Path(__file__).parents[1] / ".env"  # where the apps look for it, too

TOKEN_DELAY = 0.015
"""Seconds between the offline model's tokens: slow enough to see them come."""


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("Name the app to serve: python -m shared.serve medium.app.main:app")
    settings = given_settings()
    host = settings.get("HOST") or "127.0.0.1"
    listener = listen(host, as_port(settings.get("PORT") or "8000"))
    with ExitStack() as stack:
        if not settings.get("OPENAI_API_KEY") and not settings.get("OPENAI_BASE_URL"):
            stack.enter_context(offline_model())
        config = uvicorn.Config(arguments[0])
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            Server(config, greeting(host, port_of(listener))).run(sockets=[listener])


def given_settings() -> dict[str, str | None]:
    """From the environment, and from `.env`; what is empty there is not given."""
    environment = {name: value for name, value in os.environ.items() if value}
    return {**env_file(), **environment}


def env_file() -> dict[str, str | None]:
    try:
        return dotenv_values(ENV_FILE)
    except UnicodeDecodeError:
        sys.exit(f"{ENV_FILE} is not UTF-8: save it as UTF-8 in your editor, and start again.")


@contextmanager
def offline_model() -> Iterator[None]:
    """A model for the apps that are started in the block, as their OPENAI_BASE_URL."""
    with OfflineModel() as model:
        model.respond(Scenario(token_delay=TOKEN_DELAY))
        os.environ["OPENAI_BASE_URL"] = model.base_url
        print("No OPENAI_API_KEY: an offline model answers, from the course's handbook.")
        yield


def as_port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        sys.exit(f"PORT must be a number from 0 to 65535, such as PORT=8001, not {text!r}.")
    return int(text)


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).partition(" (while")[0]  # the rest is the address
        other = port + 1 if 1024 <= port < 65535 else 8001
        advice = {
            errno.EADDRINUSE: f"stop what is using it, or choose another port, as in PORT={other}",
            errno.EACCES: f"choose a port above 1023, as in PORT={other}",
        }.get(exc.errno or 0, "HOST must be an address of this computer, as in HOST=127.0.0.1")
        sys.exit(f"Cannot listen on {host}:{port} ({reason}): {advice}.")


def port_of(listener: socket.socket) -> int:
    """The one that the system chose, if it was to choose."""
    return int(listener.getsockname()[1])


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def greeting(host: str, port: int) -> str:
    url = url_of(host, port)
    return f"""
The agent is at {url}; its documentation is at {url}/docs, a page to try it at {url}/playground.
In a second terminal:

  curl -N {url}/api/v1/query/stream -H 'Content-Type: application/json' \\
    -d '{{"query": "How do I stream tokens with FastAPI?"}}'

Ctrl-C stops it.
"""


class Server(uvicorn.Server):
    """Says where it is, once it is there."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:  # Ctrl-C may have come first
            print(self._greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second Ctrl-C ends at once, without a traceback for each open stream."""
        if self.should_exit and sig == signal.SIGINT:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    main(sys.argv[1:])
