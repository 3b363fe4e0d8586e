"""Serves the submission, as often as a test asks for it, and knows how each of them ended."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from grader.catalogue import Exercise
from grader.judge.client import Client, Exchange
from grader.judge.talking import request_bytes
from grader.judge.wires import Address, Wires
from grader.sandbox.client import Ended, Run, SandboxProblem, open_run
from grader.sandbox.order import Forward, Limits, Order
from grader.workspace import app_name
from shared.offline_model import OfflineModel

TODO = re.compile(r'(?:NotImplementedError: |"says": ")(TODO[^\n"]*)')
"""In a traceback, or in the advanced app's log."""

MEGABYTE = 1024 * 1024
LAST_WORDS_SECONDS = 1.0


def hear_out(client: Client) -> None:
    """Let a service that has just failed print why; it is ended right after this.

    Frameworks send the 500 first and log the traceback, and with it the TODO, after it. By the time
    that another request is answered, that has happened.
    """
    with suppress(OSError, SandboxProblem), client.connect() as connection:
        connection.settimeout(LAST_WORDS_SECONDS)
        connection.sendall(request_bytes(method="GET", path="/-/last-words"))
        connection.recv(1)


class Crashed(Exception):
    """The submission ended, or never began, without being asked to."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(f"The service is gone: {ended}.")
        self.ended = ended


class NeverReady(Exception):
    """The submission was started and then did not answer."""


@dataclass(frozen=True)
class Place:
    """Where submissions to an exercise are run from."""

    exercise: Exercise
    workspace: Path
    warm: Path
    tier: int


@dataclass
class Service:
    """The `service` fixture: `async with service(RATE_LIMIT_REQUESTS=1) as client:`."""

    place: Place
    wires: Wires
    model: OfflineModel
    journal: list[Exchange] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    programs: list[Run] = field(default_factory=list)
    """Of the runs, those that are meant to end by themselves."""

    @asynccontextmanager
    async def __call__(
        self,
        *,
        forward: Mapping[str, tuple[str, Address]] | None = None,
        data: Path | None = None,
        **settings: object,
    ) -> AsyncIterator[Client]:
        """Served with these settings in its environment, until the block is left.

        `forward` gives it more servers: `{"REDIS_URL": ("redis://127.0.0.1:{port}/0", address)}`,
        where the address is a Unix socket's path, or a host and port. `data` is a folder that it
        may write to, and finds again when it is served a second time; it is told where as DATA_DIR,
        and wherever a setting says `{data}`.
        Raises Crashed when it does not start, or ends by itself before the block does.
        """
        async with AsyncExitStack() as stack:
            run = await asyncio.to_thread(self._open, forward or {}, data, settings, stack)
            await self._begin(run)
            client = await stack.enter_async_context(Client(run, self.journal))
            try:
                yield client
            except BaseException:
                await asyncio.to_thread(hear_out, client)
                raise
            if run.ended and not client.was_told_to_end:
                raise Crashed(run.ended)

    @asynccontextmanager
    async def running(
        self, *, forward: Mapping[str, tuple[str, Address]] | None = None, **settings: object
    ) -> AsyncIterator[Run]:
        """Run what is a program and no server; whatever is left of it ends with the block.

        Nobody waits for it to answer, and its end is no crash: the test says what it means. What it
        printed is complete once the block has been left.
        """
        async with AsyncExitStack() as stack:
            run = await asyncio.to_thread(self._open, forward or {}, None, settings, stack)
            self.programs.append(run)
            yield run

    async def refuses(self, *, data: Path | None = None, **settings: object) -> str:
        """Start it with settings that it has to refuse; what it printed. AssertionError if not."""
        with ExitStack() as stack:
            run = await asyncio.to_thread(self._open, {}, data, settings, stack)
            self.programs.append(run)
            ready = await asyncio.to_thread(run.wait_until_ready, self._start_seconds)
            assert not ready, "the service starts with a setting that it should refuse"
            assert run.ended, "the service neither starts nor refuses to"
            assert run.ended.code, "a service that refuses to start ends with an exit code above 0"
        return run.output.text

    @property
    def crashed(self) -> bool:
        """Whether one has ended that should not have."""
        return any(run.ended_by_itself for run in self.runs if run not in self.programs)

    @property
    def todo(self) -> str:
        """What the submission itself says is still to do, last of all."""
        said = [match for run in self.runs for match in TODO.findall(run.output.text)]
        return said[-1].strip()[:300] if said else ""

    @property
    def printed(self) -> str:
        return "".join(run.output.text for run in self.runs)

    def _open(
        self,
        forward: Mapping[str, tuple[str, Address]],
        data: Path | None,
        settings: Mapping[str, object],
        stack: ExitStack | AsyncExitStack,
    ) -> Run:
        serve = self.place.exercise.serve
        assert serve is not None, "exercise.toml has no [serve], so nothing can be served"
        assert self.model.uds is not None
        key = f"sk-{secrets.token_hex(12)}"
        wired: dict[str, tuple[str, Address]] = {
            "OPENAI_BASE_URL": ("http://127.0.0.1:{port}/v1", self.model.uds),
            **forward,
        }
        environment = {"OPENAI_API_KEY": key, **serve.environment}
        environment |= {name: str(value) for name, value in settings.items()}
        if data is not None:
            data.chmod(0o777)  # it may be served as somebody else
        order = Order(
            tier=self.place.tier,
            workspace=str(self.place.workspace),
            app=app_name(self.place.exercise),
            factory=serve.factory,
            module=serve.module or "",
            arguments=serve.arguments,
            environment=environment,
            forwards=[Forward(variable, url) for variable, (url, _) in wired.items()],
            writable=str(data) if data else "",
            limits=Limits(memory=serve.memory_mb * MEGABYTE),
        )
        run = open_run(self.place.warm, order)
        stack.callback(run.stop)
        self.runs.append(run)
        for door, (_, address) in zip(run.doors, wired.values(), strict=True):
            stack.enter_context(self.wires.joined(door, address))
        return run

    @property
    def _start_seconds(self) -> float:
        serve = self.place.exercise.serve
        return serve.start_seconds if serve else 0.0

    async def _begin(self, run: Run) -> None:
        if await asyncio.to_thread(run.wait_until_ready, self._start_seconds):
            return
        if run.ended:
            raise Crashed(run.ended)
        raise NeverReady(
            f"The service did not answer within {self._start_seconds:g} s of its start."
        )
