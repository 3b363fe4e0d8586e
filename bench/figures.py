"""The figures: what is measured, how, and what it may be.

A figure is one function that loads one service and returns the values of its measures; its
docstring is the definition that the report prints. Every answer is compared with what the model
said; one that differs counts as failed.
"""

import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from bench.client import Connection
from bench.fleet import Fleet
from bench.load import SETTLE, Conversation, ask, cpu_of, listen, listen_to_model, question
from bench.model import Script
from bench.service import Service
from bench.sums import percentile, quotient, slope
from bench.targets import Measure, Target


@dataclass(frozen=True)
class Sizes:
    """How much load each figure is; counts are per service and round."""

    queries: int = 300
    clients: int = 8
    streams: int = 24
    tokens: int = 400
    few_tokens: int = 40
    first_tokens: int = 60
    crowd: int = 100
    sessions: int = 4
    turns: int = 100
    window: int = 5
    long_session: int = 200
    many: int = 10_000


FULL = Sizes()
QUICK = Sizes(
    queries=40,
    streams=4,
    tokens=100,
    few_tokens=20,
    first_tokens=10,
    crowd=20,
    sessions=1,
    turns=20,
    window=3,
    long_session=30,
    many=200,
)

SHORT = Script(count=20)
KILOBYTE = Script(count=100, width=10)
EVERY_20_MS = Script(count=50, delay=0.020)


Values = tuple[float, ...]
"""One value for each measure of a figure; NaN where there is none."""


@dataclass(frozen=True)
class Figure:
    measure: Callable[[Fleet, Service, Sizes], Awaitable[Values]]
    measures: tuple[Measure, ...]
    services: frozenset[str] = frozenset()
    """The names of those that it is about; none means all."""

    rounds: int = 1_000
    """As many at most: a figure may be long."""

    def is_for(self, service: Service) -> bool:
        return not self.services or service.name in self.services

    @property
    def name(self) -> str:
        return self.measure.__name__

    @property
    def definition(self) -> str:
        return inspect.getdoc(self.measure) or ""


async def cpu_per_query(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """CPU time of the service's processes per plain query, each in a new session, 8 at a time."""
    driver = await fleet.driver(service, SHORT)
    load = driver.repeat(sizes.queries, ask, at_once=sizes.clients)
    cpu, _ = await cpu_of(driver.running, load)
    return (cpu / sizes.queries * 1e3,)


async def cpu_per_token(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """CPU time per token of streams of 400, 8 at a time, each stream's fixed cost included; and
    what one more token costs, as the slope between these and streams of 40."""
    costs = []
    for tokens in (sizes.few_tokens, sizes.tokens):
        driver = await fleet.driver(service, Script(count=tokens))
        load = driver.repeat(sizes.streams, listen, at_once=sizes.clients)
        cpu, _ = await cpu_of(driver.running, load)
        costs.append(cpu / sizes.streams)
    per_token = costs[1] / sizes.tokens
    return per_token * 1e6, slope(sizes.few_tokens, costs[0], sizes.tokens, costs[1]) * 1e6


async def first_token(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """Time from request to first text through the service, less the same from the model itself:
    medians of single streams, taken in turn, over connections that are kept open."""
    driver = await fleet.driver(service, SHORT)
    through, direct = list[float](), list[float]()
    async with fleet.model.connect() as to_model:

        async def each(client: Connection, script: Script) -> None:
            through.append((await listen(client, script)).first_after)
            direct.append((await listen_to_model(to_model, script)).first_after)

        await driver.repeat(sizes.first_tokens, each)
    return ((percentile(through, 50) - percentile(direct, 50)) * 1e3,)


async def streams_at_once(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """100 streams begun together, of 50 tokens that the model says every 20 ms: the share that
    came whole; and of how much later than (its number x 20 ms) after its stream's request each
    token was with the client, the 95th percentile over all tokens that came."""
    script = EVERY_20_MS
    driver = await fleet.driver(service, script)
    heard = await driver.repeat(sizes.crowd, listen, at_once=sizes.crowd)
    late = [seconds for stream in heard for seconds in stream.lateness(script.pieces, script.pace)]
    return len(heard) / sizes.crowd * 100, percentile(late, 95) * 1e3


async def turn_100(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """Turns 96 to 100 of a session over turns 1 to 5: their CPU time, and the client's median
    waiting time; over several sessions with answers of 1 KB. And the CPU time of turn 100."""
    driver = await fleet.driver(service, KILOBYTE)
    first, last = Window(), Window()

    async def session(client: Connection, script: Script) -> None:
        talk = Conversation(client, script)
        first.add(*await cpu_of(driver.running, talk.turns(sizes.window)))
        await talk.turns(sizes.turns - 2 * sizes.window)
        last.add(*await cpu_of(driver.running, talk.turns(sizes.window)))

    await driver.repeat(sizes.sessions, session)
    cpu = last.cpu / (sizes.sessions * sizes.window)
    return quotient(last.cpu, first.cpu), quotient(last.wait, first.wait), cpu * 1e3


@dataclass
class Window:
    """The same few turns of several sessions."""

    cpu: float = 0.0  # seconds, of all
    waits: list[float] = field(default_factory=list)

    def add(self, cpu: float, waits: list[float]) -> None:
        self.cpu += cpu
        self.waits += waits

    @property
    def wait(self) -> float:
        """The median turn's, in seconds."""
        return percentile(self.waits, 50)


async def memory_per_turn(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """Growth of resident memory over 200 turns of one session with answers of 1 KB, per turn, in
    a new process that has been warmed up with queries, streams and a session of 20 turns."""
    await fleet.stop(service)
    driver = await fleet.driver(service, KILOBYTE)

    async def session(client: Connection, script: Script, turns: int) -> None:
        await Conversation(client, script).turns(turns)

    await driver.repeat(1, partial(session, turns=20))
    before = driver.running.rss_bytes()
    await driver.repeat(1, partial(session, turns=sizes.long_session))
    return ((driver.running.rss_bytes() - before) / sizes.long_session / 1024,)


async def start(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """Time from making the process to the first answer to a query, byte code already cached."""
    await fleet.stop(service)
    driver = await fleet.driver(service, SHORT, warm=False)
    await driver.repeat(1, ask)
    return (time.perf_counter() - driver.running.started,)


async def cache_hit(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """CPU time per plain query when all are the same question, each in a new session, 8 at a
    time: the first answer is the model's, the others come from the cache where there is one."""
    driver = await fleet.driver(service, SHORT)
    ask_again = partial(ask, query=question())
    await driver.repeat(1, ask_again)
    load = driver.repeat(sizes.queries, ask_again, at_once=sizes.clients)
    cpu, _ = await cpu_of(driver.running, load)
    return (cpu / sizes.queries * 1e3,)


async def two_workers(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """CPU time per query with two worker processes over that with one, 32 queries at a time; and
    the queries answered per second by one and by two, on a machine that the load shares."""
    costs, rates = [], []
    for workers in ("1", "2"):
        more = {"WORKERS": workers, "WEB_CONCURRENCY": workers}
        name = f"{service.name} with {workers}"
        one = replace(service, name=name, environment={**service.environment, **more})
        driver = await fleet.driver(one, SHORT)
        load = driver.repeat(4 * sizes.queries, ask, at_once=4 * sizes.clients)
        started = time.perf_counter()
        cpu, _ = await cpu_of(driver.running, load)
        rates.append(4 * sizes.queries / (time.perf_counter() - started - 2 * SETTLE))
        costs.append(cpu)
    return quotient(costs[1], costs[0]), *rates


async def memory_flat(fleet: Fleet, service: Service, sizes: Sizes) -> Values:
    """Resident memory after 10,000 more queries over that after the first 4,000, when what is kept
    on purpose is full; each query in a new session, 8 at a time; and the growth in MB."""
    await fleet.stop(service)
    driver = await fleet.driver(service, SHORT)
    await driver.repeat(sizes.many * 2 // 5, ask, at_once=sizes.clients)
    before = driver.running.rss_bytes()
    await driver.repeat(sizes.many, ask, at_once=sizes.clients)
    after = driver.running.rss_bytes()
    return quotient(after, before), (after - before) / 2**20


UNPROMISED = {"advanced": None}
"""What is measured of the advanced service without a bound."""

HARDENED = frozenset({"advanced", "bare"})

FIGURES = (
    Figure(cpu_per_query, (Measure("CPU per query, ms", Target(1.0), {"advanced": Target(1.5)}),)),
    Figure(
        cpu_per_token,
        (
            Measure("CPU per streamed token, us", Target(0.75), {"advanced": Target(0.9)}),
            Measure("- one more token, us"),
        ),
    ),
    Figure(first_token, (Measure("first-token overhead, ms", Target(1.1), UNPROMISED),)),
    Figure(
        streams_at_once,
        (
            Measure(
                "100 streams: complete, %", Target(100, times_bare=False, at_least=True), UNPROMISED
            ),
            Measure("- lateness, p95, ms", Target(0.75), UNPROMISED),
        ),
    ),
    Figure(
        turn_100,
        (
            Measure("turn 100 / turn 1, CPU", Target(1.3, times_bare=False), UNPROMISED),
            Measure("- client's waiting time", Target(1.3, times_bare=False), UNPROMISED),
            Measure("- CPU of turn 100, ms"),
        ),
    ),
    Figure(memory_per_turn, (Measure("memory per turn, KB", Target(0.5), UNPROMISED),)),
    Figure(start, (Measure("start to first answer, s", Target(1.3), UNPROMISED),)),
    Figure(cache_hit, (Measure("CPU per repeated query, ms", Target(0.8)),), HARDENED),
    Figure(
        two_workers,
        (
            Measure("CPU per query, 2 workers / 1", Target(1.1, times_bare=False)),
            Measure("- queries per second, 1"),
            Measure("- queries per second, 2"),
        ),
        HARDENED,
    ),
    Figure(
        memory_flat,
        (
            Measure("memory, 14,000 / 4,000", Target(1.05, times_bare=False)),
            Measure("- growth, MB"),
        ),
        HARDENED,
        rounds=1,
    ),
)
