"""What the model was asked: every call, with its messages and how it ended."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["open", "completed", "cancelled", "faulted"]
RING = 10_000


@dataclass(slots=True, eq=False)
class Call:
    """One call as the server saw it. It goes on changing until `outcome` is no longer "open".

    - `completed`: a whole answer was sent.
    - `cancelled`: the client went away first.
    - `faulted`: refused, or a scenario (or the server's own stop) kept the answer from being whole.

    Times are `time.monotonic()`.
    """

    number: int
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    started_at: float = field(default_factory=time.monotonic, repr=False)
    first_piece_at: float | None = field(default=None, repr=False)
    ended_at: float | None = field(default=None, repr=False)
    status: int | None = None
    """The HTTP status that was sent, once one was."""
    pieces_sent: int = 0
    """Tokens handed to the socket. Of a plain answer all at once, with the answer."""
    outcome: Outcome = "open"

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages = self.body.get("messages")
        return messages if isinstance(messages, list) else []

    @property
    def tools(self) -> list[dict[str, Any]]:
        tools = self.body.get("tools")
        return tools if isinstance(tools, list) else []

    @property
    def tool_names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def model(self) -> str | None:
        return self.body.get("model")

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True


class Recorder:
    """Keeps the last `keep` calls and the exact number of all. Safe to use from any thread."""

    def __init__(self, keep: int = RING) -> None:
        self._changed = threading.Condition()
        self._calls: deque[Call] = deque(maxlen=keep)
        self._count = 0
        self._waiting = 0

    @property
    def calls(self) -> list[Call]:
        with self._changed:
            return list(self._calls)

    @property
    def count(self) -> int:
        return self._count

    def clear(self) -> None:
        with self._changed:
            self._calls.clear()
            self._count = 0

    def begin(self, body: dict[str, Any], headers: Sequence[tuple[str, str]]) -> Call:
        with self._changed:
            self._count += 1
            call = Call(self._count, body, dict(headers))
            self._calls.append(call)
            self._changed.notify_all()
        return call

    def count_pieces(self, call: Call, count: int = 1) -> None:
        # No lock: one thread writes, and the streaming path is as cheap as it can be. A waiter
        # raises `_waiting` before it looks, so that it either sees this piece or is woken.
        call.pieces_sent += count
        if call.first_piece_at is None:
            call.first_piece_at = time.monotonic()
        if self._waiting:
            self._wake()

    def end(self, call: Call, outcome: Outcome) -> None:
        call.ended_at = time.monotonic()
        call.outcome = outcome
        if self._waiting:
            self._wake()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """True as soon as `predicate()` holds, False after `timeout` seconds."""
        with self._changed:
            self._waiting += 1
            try:
                return self._changed.wait_for(predicate, timeout)
            finally:
                self._waiting -= 1

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
