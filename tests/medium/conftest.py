"""The medium service for the tests beside this: one that all share, and ones of a test's own."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from shared.offline_model import OfflineModel
from tests.serving import TRACEBACK, Service, make_checkout, served

Serve = Callable[..., tuple[Service, OfflineModel]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run from: the packages, no `.env`."""
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def patient(checkout: Path) -> Iterator[tuple[Service, OfflineModel]]:
    """The one service that most tests share: as it comes, but for an origin that is let in."""
    with served(checkout, CORS_ORIGINS="https://course.example, http://localhost:5173") as both:
        yield both


@pytest.fixture(scope="session")
def impatient(checkout: Path) -> Iterator[tuple[Service, OfflineModel]]:
    """A service whose deadline is soon, for models that never answer."""
    with served(checkout, REQUEST_TIMEOUT="2") as both:
        yield both


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Service, OfflineModel]]:
    """The impatient service for modules that say HURRIED = True, the patient one for the others."""
    hurried = getattr(request.module, "HURRIED", False)
    service, model = request.getfixturevalue("impatient" if hurried else "patient")
    model.clear()
    before = len(service.output)
    yield service, model
    printed = service.output[before:]
    service.failure_expected |= TRACEBACK in printed  # told here, and not again at the very end
    assert TRACEBACK not in printed, printed


@pytest.fixture
def service(both: tuple[Service, OfflineModel]) -> Service:
    return both[0]


@pytest.fixture
def model(both: tuple[Service, OfflineModel]) -> OfflineModel:
    """The service's model, without a memory of earlier tests."""
    return both[1]


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with service.client() as client:
        yield client


@pytest.fixture
def session_id() -> str:
    """A session that no other test has."""
    return f"test-{uuid4()}"


@pytest.fixture
def serve(checkout: Path) -> Iterator[Serve]:
    """Start a service of the test's own: `service, model = serve(TURN_WAIT="0.3")`."""
    with ExitStack() as stack:
        yield lambda **more: stack.enter_context(served(checkout, **more))
