"""Whether the service can do its work, and what it has to do without."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from shared.errors import AgentError

Clock = Callable[[], float]
State = Literal["up", "down", "off"]
"""Off: this service was told to do without."""

KEPT = 2.0
"""Seconds for which an answer is repeated: probes, however many, ask nobody more often."""

PATIENCE = 0.5
"""Seconds that a probe waits. Orchestrators often give it one, and would take a service away that
only has to do without its model."""

LONGEST = 3.0
"""Seconds until a dependency that says nothing counts as down, probe or no probe."""

Check = Callable[[], Awaitable[bool]]


class NotReady(AgentError):
    """The session store cannot be reached: no turn can begin."""

    status = 503
    code = "not_ready"
    error = "The service cannot work without its session store; try again shortly."


class Dependency:
    """One of them, asked in the background, and only when somebody wants to know."""

    def __init__(self, check: Check, clock: Clock) -> None:
        self.state: State = "down"  # until it has said something
        self._check = check
        self._clock = clock
        self._until = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def ask(self) -> asyncio.Task[None] | None:
        """What is worth waiting for, unless what is known is young enough."""
        if self._asking is None and self._clock() >= self._until:
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(LONGEST):
                self.state = "up" if await self._check() else "down"
        except (AgentError, TimeoutError):
            self.state = "down"
        finally:
            self._until = self._clock() + KEPT
            self._asking = None


class Dependencies:
    """What the service leans on. A check that is None stands for something switched off."""

    def __init__(self, checks: dict[str, Check | None], clock: Clock = time.monotonic) -> None:
        self._all = {name: check and Dependency(check, clock) for name, check in checks.items()}

    async def states(self) -> dict[str, State]:
        """Each by name, within PATIENCE; what has not answered by then is what it was before."""
        asked = [
            task for dependency in self._all.values() if dependency and (task := dependency.ask())
        ]
        if asked:
            await asyncio.wait(asked, timeout=PATIENCE)
        return {name: known.state if known else "off" for name, known in self._all.items()}
