"""The advanced track's fixtures: the real servers that a submission needs beside its model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.judge.servers import Database, Postgres, Redis, private_folder
from grader.judge.traces import Collector


@pytest.fixture
def redis() -> Iterator[Redis]:
    """A real Valkey, for this test alone. `service(**redis.settings, forward=redis.forward)`."""
    with private_folder() as folder, Redis(folder) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with private_folder() as folder, Postgres(folder) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Database]:
    """A new database in a real PostgreSQL. `service(forward=postgres.forward)`."""
    postgres_server.start_again()
    with postgres_server.database() as database:
        yield database


@pytest.fixture
def otlp(short_folder: Path) -> Iterator[Collector]:
    """Who takes the submission's traces. `service(forward=otlp.forward)`."""
    with Collector(short_folder / "otlp") as collector:
        yield collector
