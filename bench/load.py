"""The load: what a client of the services does, and what it accepts as an answer."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.client import Connection, EventStream, RequestFailed
from bench.model import Script
from bench.service import Running
from bench.sums import Arrival, Heard

T = TypeVar("T")
SETTLE = 0.1  # seconds for what a service still does after its last answer

_number = itertools.count(1)


def question() -> str:
    """A new one each time, so that no service can answer from a cache."""
    return f"Question {next(_number)}: what does a server-sent event look like on the wire?"


async def ask(
    connection: Connection,
    script: Script,
    session_id: str | None = None,
    query: str | None = None,
) -> str:
    """One plain query; the id of its session, which is a new one unless `session_id` is given."""
    body = {"query": query or question()} | ({"session_id": session_id} if session_id else {})
    answer = await connection.post("/api/v1/query", body)
    with _reading():
        _expect(answer["response"], script)
        return str(answer["session_id"])


async def listen(connection: Connection, script: Script) -> Heard:
    """One streamed query of a new session."""
    stream = await connection.stream("/api/v1/query/stream", {"query": question()})
    with _reading():
        _expect_end(stream)
        return _heard(stream, script, _chunk)


async def listen_to_model(connection: Connection, script: Script) -> Heard:
    """The same from the model itself, without a service in between."""
    messages = [{"role": "user", "content": question()}]
    body = {"model": "gpt-4o-mini", "messages": messages, "stream": True}
    stream = await connection.stream("/chat/completions", body)
    with _reading():
        return _heard(stream, script, _delta)


@contextmanager
def _reading() -> Iterator[None]:
    """An answer without the contract's shape has failed like one with the wrong status."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise RequestFailed(f"not the contract's answer: {exc!r}") from exc


def _chunk(data: bytes) -> str:
    """The text in a service's event."""
    return str(json.loads(data)["chunk"])


def _delta(data: bytes) -> str:
    """The text in a model's event."""
    choices = [] if data == b"[DONE]" else json.loads(data)["choices"]
    return choices[0]["delta"].get("content") or "" if choices else ""


def _heard(stream: EventStream, script: Script, text_in: Callable[[bytes], str]) -> Heard:
    arrivals = [Arrival(event.at, text_in(event.data)) for event in stream.events]
    _expect("".join(arrival.text for arrival in arrivals), script)
    return Heard(stream.started, [arrival for arrival in arrivals if arrival.text])


def _expect(text: str, script: Script) -> None:
    if text != script.text:
        raise RequestFailed(
            f"answered {text[:60]!r}... instead of the model's {script.text[:60]!r}"
        )


def _expect_end(stream: EventStream) -> None:
    """Exactly the last event says done, and it carries no error."""
    ends: list[dict[str, Any]] = [json.loads(event.data) for event in stream.events]
    if [end["done"] for end in ends] != [False] * (len(ends) - 1) + [True]:
        raise RequestFailed("the stream did not end with its one event that says done")
    if error := (ends[-1].get("metadata") or {}).get("error"):
        raise RequestFailed(f"the stream ended with {error}")


@dataclass
class Driver:
    """Puts load on one service and keeps what failed."""

    running: Running
    script: Script
    failures: list[str] = field(default_factory=list)

    async def repeat(
        self, times: int, job: Callable[[Connection, Script], Awaitable[T]], *, at_once: int = 1
    ) -> list[T]:
        """Do `job` so often over `at_once` connections; the results of those that succeeded."""
        turns, results = iter(range(times)), list[T]()

        async def worker() -> None:
            async with self.running.connect() as connection:
                for _ in turns:
                    try:
                        results.append(await job(connection, self.script))
                    except RequestFailed as exc:
                        self.failures.append(str(exc))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
        return results


class Conversation:
    """A session, from its first turn on."""

    def __init__(self, connection: Connection, script: Script) -> None:
        self._connection, self._script = connection, script
        self._session_id: str | None = None

    async def turns(self, count: int) -> list[float]:
        """So many more turns, one after the other, and the seconds that each took the client.

        Raises RequestFailed at the first failure.
        """
        waits = []
        for _ in range(count):
            started = time.perf_counter()
            self._session_id = await ask(self._connection, self._script, self._session_id)
            waits.append(time.perf_counter() - started)
        return waits


async def cpu_of(running: Running, work: Awaitable[T]) -> tuple[float, T]:
    """The CPU seconds that the service's processes spent on `work`, and what came of it.

    The service is left in peace before, so that every piece of work starts as cold as the next.
    """
    await asyncio.sleep(SETTLE)
    before = running.cpu_seconds()
    result = await work
    await asyncio.sleep(SETTLE)
    return running.cpu_seconds() - before, result
