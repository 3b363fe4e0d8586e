"""The advanced track's fixtures: the real servers that a submission needs beside its model."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.assignment import VARIABLE
from grader.judge.servers import Database, DataFolder, Postgres, Redis, private_folder
from grader.judge.traces import Collector

TEMPLATE = pytest.StashKey[DataFolder]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """For judges that are yet to be forked, have made what each of their PostgreSQLs begins with.

    They run in a folder of the runner's, who removes it.
    """
    needed = any("postgres" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and VARIABLE in os.environ:
        session.config.stash[TEMPLATE] = DataFolder(Path(tempfile.mkdtemp(prefix="g-")))


@pytest.fixture
def redis() -> Iterator[Redis]:
    """A real Valkey, for this test alone. `service(**redis.settings, forward=redis.forward)`."""
    with private_folder() as folder, Redis(folder) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    template = request.config.stash.get(TEMPLATE, None)
    with private_folder(much=bool(template)) as folder, Postgres(folder, template) as server:
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
