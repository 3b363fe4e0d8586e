"""Work that several wait for at once: it is done once, and goes on while one of them is left.

Nothing here knows of Redis: `flights.py` adds the other processes.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import uuid4

import orjson

Say = Callable[[Any], None]
Work = Callable[[Say], Awaitable[Any]]
"""What makes an answer: it may `say` pieces while it goes, and returns a value that JSON can hold.
It bounds its own time; it is cancelled when nobody waits any more."""

Test = Callable[[Any], bool]
"""Of a value."""

Source = Literal["made", "shared", "stored"]


class Flight:
    """One question's work, as `flights.py` sees it."""

    def __init__(self, key: str, work: Work, keep: Test, believe: Test) -> None:
        self.key = key
        self.work = work
        self.keep = keep
        self.believe = believe
        self.token = uuid4().hex
        """Its name among processes."""
        self.task: asyncio.Task[None] | None = None
        self.deserted = asyncio.Event()
        """Set while nobody in this process waits."""
        self.wanted_elsewhere = False
        """Whether other processes may be waiting: then `deserted` alone does not stop it."""
        self.source: Source = "made"
        self.landed = False

        self._waiting = 0
        self._said: list[Any] = []
        self._news = asyncio.Event()
        self._value: bytes = b""
        self._error: BaseException | None = None

    @property
    def stopped(self) -> bool:
        return self.task is not None and self.task.cancelling() > 0

    def say(self, piece: Any) -> None:
        self._said.append(piece)
        self._tell()

    def land(self, value: bytes, source: Source = "made") -> None:
        """Everybody gets the value, JSON."""
        self._value, self.source, self.landed = value, source, True
        self._tell()

    def fail(self, error: BaseException) -> None:
        """Everybody gets the error, unless there is an outcome already."""
        if not self.landed:
            self._error, self.landed = error, True
            self._tell()

    def stop(self) -> None:
        if self.task is not None and not self.stopped:  # a second time would cut its clean-up
            self.task.cancel()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Wait for it while the block lasts; the last to leave stops it."""
        self._waiting += 1
        self.deserted.clear()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.deserted.set()
                if not self.landed and not self.wanted_elsewhere:
                    self.stop()

    async def pieces(self) -> AsyncGenerator[Any, None]:
        """All that was said and is being said, from the first word, until it has landed."""
        seen = 0
        while True:
            while seen < len(self._said):
                seen += 1
                yield self._said[seen - 1]
            if self.landed:
                return
            await self._news.wait()

    async def value(self) -> Any:
        """What came of it, a copy for each caller. Raises the error that ended it."""
        while not self.landed:
            await self._news.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)  # else it would grow with every waiter
        return orjson.loads(self._value)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Answer:
    """One waiter's view of a flight. Made by `Flights.answer`."""

    def __init__(self, flight: Flight, *, first: bool) -> None:
        self._flight = flight
        self._first = first

    @property
    def source(self) -> Source:
        """Once there is a result: "made" for this waiter, "shared" with others who asked at the
        same time, here or in another process, or "stored" from earlier."""
        if self._flight.source == "made" and not self._first:
            return "shared"
        return self._flight.source

    @property
    def cached(self) -> bool:
        return self.source != "made"

    def pieces(self) -> AsyncGenerator[Any, None]:
        """What the work says, as it says it; a latecomer hears all of it. It ends without an error
        when the work does: `result` tells. What came from the store or from another process was
        never heard here: then there are no pieces."""
        return self._flight.pieces()

    async def result(self) -> Any:
        """What the work returned, through JSON. Raises what the work raised."""
        return await self._flight.value()
