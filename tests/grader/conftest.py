"""One grader for all tests of a module, since its parent takes a second to get warm."""

from collections.abc import Iterator

import pytest

from grader.runner import Grader, opened

collect_ignore = ["target", "submissions"]  # a suite for the grader, and what it is to judge


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with opened() as grader:
        grader.ready()
        yield grader
