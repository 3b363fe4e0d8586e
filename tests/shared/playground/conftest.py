"""A browser for each module beside this, and visits that have to go without a complaint."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.serving import make_checkout
from tests.shared.playground.browsing import Visitor, opened_browser, visits


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    with visits(browser) as visitor:
        yield visitor
