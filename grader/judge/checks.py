"""`@check("id")`: which of the exercise's declared checks a test decides; and when none can."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from grader.sandbox.client import SandboxProblem

Test = TypeVar("Test", bound=Callable[..., object])


def check(id_: str) -> Callable[[Test], Test]:
    """Several tests may carry one id: the check passes when all of them do."""
    return pytest.mark.check(id_)


@contextmanager
def only_until(moment: float) -> Iterator[None]:
    """For what is judged against the clock: a failure later than `moment` proves nothing.

    Then this machine was too slow, and the check is tried again. `time.monotonic()`.
    """
    try:
        yield
    except AssertionError as exc:
        if time.monotonic() > moment:
            raise SandboxProblem("this machine is too busy to judge it by the clock") from exc
        raise
