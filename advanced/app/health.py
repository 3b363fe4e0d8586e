"""Whether the service can do its work, and what it has to do without."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from shared.errors import AgentError

Clock = Callable[[], float]
State = Literal["up", "down", "off"]
"""Off: this service was told to do without."""

KEPT = 2.0
"""Seconds for which an answer is repeated: probes, however many, ask nobody more often."""

PATIENCE = 1.0
"""Seconds until a dependency that says nothing counts as down."""

Check = Callable[[], Awaitable[bool]]


class NotReady(AgentError):
    """The session store cannot be reached: no turn can begin."""

    status = 503
    code = "not_ready"
    error = "The service cannot work without its session store; try again shortly."


class Dependencies:
    """What the service leans on. A check that is None stands for something switched off."""

    def __init__(self, checks: dict[str, Check | None], clock: Clock = time.monotonic) -> None:
        self._checks = checks
        self._clock = clock
        self._known: dict[str, State] = {}
        self._until = 0.0
        self._asking = asyncio.Lock()

    async def states(self) -> dict[str, State]:
        """Each by name; at most KEPT seconds old, and never later than PATIENCE."""
        async with self._asking:
            if self._clock() >= self._until:
                found = await asyncio.gather(*map(asked, self._checks.values()))
                self._known = dict(zip(self._checks, found, strict=True))
                self._until = self._clock() + KEPT
        return self._known


async def asked(check: Check | None) -> State:
    if check is None:
        return "off"
    try:
        async with asyncio.timeout(PATIENCE):
            return "up" if await check() else "down"
    except (AgentError, TimeoutError):
        return "down"
