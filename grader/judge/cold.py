"""`pytest -p grader.judge.cold`: each service is started cold, as by a suite without a sandbox.

For `make bench-grader`, which compares. Walls and checks are the same.
"""

import functools
import importlib
from typing import Any

from grader.sandbox.client import WarmParent


def pytest_configure() -> None:
    judge: Any = importlib.import_module("grader.judge.plugin")  # pytest has to be first
    judge.WarmParent = functools.partial(WarmParent, tracks=())
