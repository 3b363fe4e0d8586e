"""`python -m advanced.serve`: the hardened service with what it needs, here or in a container.

Without OPENAI_API_KEY and OPENAI_BASE_URL it brings the offline model; without REDIS_HOST a Redis
of its own. Both only in development. With WORKERS above 1 there are as many processes.
"""

import os
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress

import uvicorn
from pydantic import ValidationError
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess

from advanced.app.config import Settings, read_settings
from advanced.app.logs import log_config
from advanced.app.signing_key import signing_key
from advanced.app.users import demo_password
from advanced.embedded_redis import NoEmbeddedRedis, embedded_redis
from shared.errors import ConfigurationError
from shared.serve import Server, listen, offline_model, port_of, url_of
from shared.web.lifecycle import sentence

APP = "advanced.app.main:app"
START_SECONDS = 60.0


def main() -> None:
    try:
        run(read_settings())
    except (ConfigurationError, ValidationError) as exc:
        sys.exit(sentence(exc))


def run(settings: Settings) -> None:
    listener = listen(settings.HOST, settings.PORT)
    with ExitStack() as stack:
        if settings.ENVIRONMENT == "development":
            bring_what_is_missing(settings, stack)
        if settings.WORKERS > 1:  # before anything in a worker imports prometheus_client
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        config = uvicorn.Config(
            APP,
            workers=settings.WORKERS,
            log_config=log_config(settings.log_level, debug=settings.DEBUG),
            access_log=False,
            proxy_headers=False,  # TRUSTED_PROXIES says whom to believe
        )
        text = greeting(settings, url_of(settings.HOST, port_of(listener)))
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            if settings.WORKERS > 1:
                Workers(config, listener, text).run()
            else:
                Server(config, text).run(sockets=[listener])


def bring_what_is_missing(settings: Settings, stack: ExitStack) -> None:
    if settings.OPENAI_API_KEY is None and settings.OPENAI_BASE_URL is None:
        stack.enter_context(offline_model())
    if settings.REDIS_ENABLED and settings.REDIS_HOST is None:
        try:
            redis = stack.enter_context(embedded_redis())
        except NoEmbeddedRedis as exc:
            print(f"{exc}: caching and shared limits are off. Set REDIS_HOST to switch them on.")
        else:
            os.environ.update(redis.environment)
            print(f"No REDIS_HOST: a Redis of our own runs on port {redis.port}.")


class Workers(Multiprocess):
    """Says where the service is, once all its processes are ready."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, greeting: str) -> None:
        super().__init__(config, sockets=[listener])
        self._greeting = greeting

    def init_processes(self) -> None:
        super().init_processes()
        if all(process.wait_until_ready(START_SECONDS) for process in self.processes):
            print(self._greeting, flush=True)

    def run(self) -> None:
        """Exits with uvicorn's code for it if the service cannot start."""
        try:
            super().run()
        finally:  # an exception leaves them behind, and Python waits for them before it ends
            self.terminate_all()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            sys.exit(STARTUP_FAILURE)


def greeting(settings: Settings, url: str) -> str:
    pages = f"a page to try it at is {url}/playground"
    if settings.DOCS_ENABLED:
        pages = f"its documentation is at {url}/docs, {pages}"
    if not settings.DEMO_USERS:
        return f"\nThe agent is at {url}; {pages}. `make user NAME=...` makes users.\n"
    api = f"{url}{settings.API_PREFIX}"
    password = demo_password(signing_key(settings), "alice")
    return f"""
The agent is at {url}; {pages}.
In a second terminal, log in and ask:

  TOKEN=$(curl -s {api}/auth/login -d username=alice -d password={password} | cut -d'"' -f4)
  curl -N {api}/query/stream -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -d '{{"query": "How do I stream tokens with FastAPI?"}}'

Ctrl-C stops it.
"""


if __name__ == "__main__":
    main()
