"""The advanced service for the tests beside this: one that many share, and ones of a test's own."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from shared.offline_model import OfflineModel
from tests.advanced.serving_advanced import Advanced, failures, served_advanced
from tests.serving import make_checkout

Serve = Callable[..., Advanced]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run from: the packages, no `.env`."""
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def two_workers(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Advanced, dict[str, str]]]:
    """The one service that most tests share, with two workers, and its users' tokens."""
    state = tmp_path_factory.mktemp("state")
    with served_advanced(
        checkout, state, WORKERS="2", CORS_ORIGINS="https://course.example, http://localhost:5173"
    ) as service:
        yield service, {name: service.log_in(name) for name in ("carol", "dave")}


@pytest.fixture
def shared_service(two_workers: tuple[Advanced, dict[str, str]]) -> Iterator[Advanced]:
    """The shared service, its model without a memory of earlier tests, its cache empty."""
    service, _ = two_workers
    assert service.redis
    service.model.clear()
    service.redis.ask("FLUSHALL")
    before = len(service.process.output)
    yield service
    printed = failures(service.process.output[before:])
    service.process.failure_expected |= bool(printed)  # told here, and not again at the very end
    assert not printed, printed


@pytest.fixture
def model(shared_service: Advanced) -> OfflineModel:
    """The shared service's model."""
    return shared_service.model


@pytest.fixture
def tokens(two_workers: tuple[Advanced, dict[str, str]]) -> dict[str, str]:
    """The users' tokens for the shared service: log out with others."""
    return two_workers[1]


@pytest.fixture
async def carol(
    shared_service: Advanced, tokens: dict[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    async with shared_service.client(tokens["carol"]) as client:
        yield client


@pytest.fixture
async def dave(
    shared_service: Advanced, tokens: dict[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    async with shared_service.client(tokens["dave"]) as client:
        yield client


@pytest.fixture
async def nobody(shared_service: Advanced) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with shared_service.client() as client:
        yield client


@pytest.fixture
def serve(checkout: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start a service of the test's own: `service = serve(WORKERS="2", CACHE_ENABLED="false")`.

    `command=UVICORN` starts it by hand, `redis=False` without a Redis, `state=` elsewhere.
    """
    with ExitStack() as stack:

        def start(**more: object) -> Advanced:
            state = more.pop("state", tmp_path / "state")
            return stack.enter_context(served_advanced(checkout, state, **more))  # type: ignore[arg-type]

        yield start
