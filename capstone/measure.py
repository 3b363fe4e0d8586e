"""The capstone's figures: `make bench-capstone`. Load, model and servers share the cores.

Prints a table in Markdown. `--rounds` says how often each figure is taken; the median is shown,
and the lowest and highest beside it.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import platform
import secrets
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from capstone.world import PASSWORD, USER, World, running
from shared.offline_model import Scenario

AT_ONCE = 16
QUERIES = 400
STREAMS = 40
EVERY = 0.02
"""Seconds between two questions while a replica is killed."""

AROUND_THE_KILL = 2.0
UNLIMITED = {"RATE_LIMIT_BURST": "1000000", "RATE_LIMIT_PER_SECOND": "100000"}


@asynccontextmanager
async def user(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        form = {"username": USER, "password": PASSWORD}
        async with client.post(f"{world.url}/api/v1/auth/login", data=form) as reply:
            token = (await reply.json())["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def question() -> dict[str, str]:
    """A first question that nobody has asked before: a model call, and a new session."""
    return {"query": f"hello {secrets.token_hex(8)}"}


async def ask(client: aiohttp.ClientSession, url: str) -> bool:
    async with client.post(f"{url}/api/v1/query", json=question()) as reply:
        return reply.status == 200 and bool((await reply.json())["response"])


async def per_second(world: World) -> float:
    """Questions answered each second through the proxy, AT_ONCE at a time."""
    async with user(world) as client:
        left = iter(range(QUERIES))

        async def caller() -> None:
            for _ in left:
                if not await ask(client, world.url):
                    sys.exit("A question was not answered, so there is nothing to measure.")

        await asyncio.gather(*(ask(client, world.url) for _ in range(AT_ONCE)))  # warm
        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        return QUERIES / (time.perf_counter() - started)


async def first_token(world: World, url: str) -> float:
    """Milliseconds to a stream's first text, in the median of STREAMS, one after another."""
    took = []
    async with user(world) as client:
        for _ in range(STREAMS):
            started = time.perf_counter()
            async with client.post(f"{url}/api/v1/query/stream", json=question()) as reply:
                async for line in reply.content:
                    if b'"chunk":"' in line and b'"chunk":""' not in line:
                        took.append(1000 * (time.perf_counter() - started))
                        break
                await reply.read()
    return statistics.median(took)


async def failover(world: World) -> tuple[float, int]:
    """A replica is killed under a steady trickle of questions: the longest pause in milliseconds
    between two answers, and how many questions got none."""
    answered, failed = [time.perf_counter()], 0

    async def one(client: aiohttp.ClientSession) -> None:
        nonlocal failed
        try:
            good = await ask(client, world.url)
        except aiohttp.ClientError:
            good = False
        if good:
            answered.append(time.perf_counter())
        else:
            failed += 1

    async with user(world) as client, asyncio.TaskGroup() as tasks:
        for number in range(int(2 * AROUND_THE_KILL / EVERY)):
            if number == int(AROUND_THE_KILL / EVERY):
                world.replicas[0].end(signal.SIGKILL)
            tasks.create_task(one(client))
            await asyncio.sleep(EVERY)
    world.replicas[0].start_again()
    pauses = (later - earlier for earlier, later in itertools.pairwise(answered))
    return 1000 * max(pauses), failed


def measure(rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Each figure's name, and its values."""
    for replicas in (1, 2):
        with running(replicas, **UNLIMITED) as world:
            world.model.respond(Scenario("Hello to you."))
            rates = [asyncio.run(per_second(world)) for _ in range(rounds)]
            yield f"questions per second, {replicas} replica{'s' * (replicas - 1)}", rates
            if replicas == 1:
                continue
            for name, url in (
                ("a replica", world.replicas[0].url),
                ("the proxy", world.url),
            ):
                times = [asyncio.run(first_token(world, url)) for _ in range(rounds)]
                yield f"ms to the first token, from {name}", times
            gaps = [asyncio.run(failover(world)) for _ in range(rounds)]
            yield "ms without an answer when a replica is killed", [gap for gap, _ in gaps]
            yield "questions lost when a replica is killed", [float(lost) for _, lost in gaps]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m capstone.measure", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()},")
    print(f"{options.rounds} rounds, {AT_ONCE} at once, {QUERIES} questions a round.\n")
    print("| figure | median | lowest | highest |\n|---|---|---|---|", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for name, values in measure(options.rounds):
            shown = (statistics.median(values), min(values), max(values))
            print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in shown) + " |", flush=True)


if __name__ == "__main__":
    main()
