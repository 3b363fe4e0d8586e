"""The advanced service as it is meant to run: all features on, Redis beside it, a user logged in.

Its Redis is no part of its figures: it is a process of its own, which the services share in life.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from advanced.app.users import set_password
from advanced.embedded_redis import embedded_redis
from bench.service import Service

NAME, PASSWORD = "bench", "an-example-password"


@contextmanager
def its_world() -> Iterator[Mapping[str, str]]:
    """A state folder with one user, and a Redis."""
    with TemporaryDirectory() as folder, embedded_redis() as redis:
        set_password(Path(folder) / "users.json", NAME, PASSWORD, cost=4)
        yield {**redis.environment, "STATE_DIR": folder}


def log_in(url: str) -> str:
    """The token of the one user."""
    form = {"username": NAME, "password": PASSWORD}
    return str(httpx.post(f"{url}/api/v1/auth/login", data=form).json()["access_token"])


HARDENED = Service(
    "advanced",
    "advanced.serve",
    starts_itself=True,
    environment={
        "DEMO_USERS": "false",  # their passwords are hashed in the background, at our cost
        "RATE_LIMIT_REQUESTS": "1000000",  # counted, never reached
        "WORKERS": "1",
    },
    world=its_world,
    token=log_in,
)
