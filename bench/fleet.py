"""The services that are up for one figure, each started when it is first needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.load import Driver, ask, listen
from bench.model import Model, Script
from bench.service import Running, Service

WARM_UP = Script(count=20)
WARM_UPS = 40


class Fleet:
    """Idle services cost next to nothing, so the rounds of a figure can take turns on them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.failures: list[str] = []
        self._up: dict[str, Running] = {}

    async def driver(self, service: Service, script: Script, *, warm: bool = True) -> Driver:
        """The means to load `service`, with the model saying `script`; warmed up once."""
        if service.name not in self._up:
            await self._start(service, warm)
        await self.model.play(script)
        return Driver(self._up[service.name], script, self.failures)

    async def stop(self, service: Service) -> None:
        if running := self._up.pop(service.name, None):
            await running.stop()

    async def _start(self, service: Service, warm: bool) -> None:
        await self.model.play(WARM_UP)
        running = await Running.start(service, self.model.base_url)
        self._up[service.name] = running
        if warm:
            driver = Driver(running, WARM_UP, self.failures)
            await driver.repeat(WARM_UPS, ask, at_once=8)
            await driver.repeat(WARM_UPS, listen, at_once=8)

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            while self._up:
                _, running = self._up.popitem()
                group.create_task(running.stop())


@asynccontextmanager
async def fleet_on(model: Model) -> AsyncIterator[Fleet]:
    fleet = Fleet(model)
    try:
        yield fleet
    finally:
        await fleet.close()
