"""`pytest -p grader.judge.cold`: each service is started cold, as by a suite without a sandbox.

For `make bench-grader`, which compares. Walls and checks are the same.
"""

import functools
from typing import Any

from grader.judge import plugin
from grader.sandbox.client import WarmParent


def pytest_configure() -> None:
    judge: Any = plugin
    judge.WarmParent = functools.partial(WarmParent, tracks=())
