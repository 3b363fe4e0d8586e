"""What a test wants the model to do: say this, this slowly, and break like that."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

from shared.offline_model.answers import Answer, ToolCall, Usage, call_tools, say
from shared.offline_model.recorder import Call

_HUGE_BLOCK = "The quick brown fox jumps over the lazy dog, and over it again. "  # 64 characters


class Fault(StrEnum):
    """The ways in which an answer fails to be one. Each is a field of `Scenario`."""

    STATUS = "status"
    HANG = "hang"
    DROP = "drop"
    HTML = "html"
    EMPTY_CHOICES = "empty_choices"
    HANG_AFTER = "hang_after"
    CUT_AFTER = "cut_after"
    END_EARLY_AFTER = "end_early_after"
    MALFORMED_AFTER = "malformed_after"
    ERROR_AFTER = "error_in_stream_after"


@dataclass(frozen=True)
class Scenario:
    """One behaviour: an answer, its pace, and one fault at most.

    **The answer**, one of: `text`; `pieces`, sent exactly as they are listed; `tool_calls`, with a
    `preamble` of text before them; `huge` characters of prose; `empty_text`. With none of these the
    assistant answers, so that `Scenario(token_delay=0.02)` is the assistant, slowed down.

    **The pace**, in seconds from when the call came in: piece i is sent at
    `first_token_delay + i * token_delay`, and late pieces catch up. A plain answer comes when its
    last piece would have. Every fault but `hang` and `drop` keeps to it.

    **The fault**, one of (a stream sends `n` pieces first; n = 0 is after the 200 and the role):

    | field | a stream | a plain answer |
    |---|---|---|
    | `status` | an error in OpenAI's shape; `retry_after` sets the header, as it is | same |
    | `hang` | silence, not even a status, until the client or the server goes | same |
    | `drop` | the connection closes without a byte | same |
    | `html` | a 200 with an HTML page, as from a captive portal | same |
    | `empty_choices` | one chunk with `choices: []`, then `[DONE]` | `choices: []` |
    | `hang_after=n` | silence after n pieces | silence |
    | `cut_after=n` | the connection closes, no terminating chunk | half of the promised body |
    | `end_early_after=n` | a clean end, no finish_reason, no `[DONE]` | n pieces, no reason |
    | `malformed_after=n` | a data line of broken JSON, then a clean end | broken JSON |
    | `error_in_stream_after=n` | an `{"error": ...}` data line, then a clean end | that as a 200 |

    `malformed=True` is `malformed_after=0`. `finish_reason` replaces the answer's own.
    `usage=False` leaves usage out even where it was asked for.
    A request's own `max_tokens` still ends any answer early.
    """

    text: str | None = None
    _: KW_ONLY
    pieces: Sequence[str] | None = None
    tool_calls: Sequence[ToolCall] = ()
    preamble: str = ""
    huge: int | None = None
    empty_text: bool = False
    finish_reason: str | None = None
    usage: Usage | bool = True

    first_token_delay: float = 0.0
    token_delay: float = 0.0

    status: int | None = None
    retry_after: int | str | None = None
    hang: bool = False
    drop: bool = False
    html: bool = False
    empty_choices: bool = False
    malformed: bool = False
    hang_after: int | None = None
    cut_after: int | None = None
    end_early_after: int | None = None
    malformed_after: int | None = None
    error_in_stream_after: int | None = None

    def __post_init__(self) -> None:
        if self.malformed and self.malformed_after is None:
            object.__setattr__(self, "malformed_after", 0)
        _one_at_most("answer", self._answers())
        _one_at_most("fault", self._faults())
        if self.preamble and not self.tool_calls:
            raise ValueError("a preamble comes before tool_calls; without them use text")
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError(f"status is an error status, 400 to 599, not {self.status}")
        if self.retry_after is not None and self.status is None:
            raise ValueError("retry_after needs a status to come with")

    @property
    def fault(self) -> Fault | None:
        return next(iter(self._faults()), None)

    @property
    def fault_after(self) -> int | None:
        """How many pieces a stream sends before the fault; None if the fault replaces them all."""
        fault = self.fault
        count = getattr(self, fault) if fault else None
        return count if fault and fault.endswith("_after") else None

    def answer(self) -> Answer | None:
        """What is to be said, or None: whatever the assistant says."""
        if self.text is not None:
            return say(self.text)
        if self.pieces is not None:
            return Answer(tuple(self.pieces))
        if self.tool_calls:
            return call_tools(self.tool_calls, self.preamble)
        if self.huge is not None:
            blocks, rest = divmod(self.huge, len(_HUGE_BLOCK))
            return Answer([_HUGE_BLOCK] * blocks + [_HUGE_BLOCK[:rest]] * bool(rest))
        return Answer([]) if self.empty_text else None

    def _answers(self) -> list[str]:
        given = {
            "text": self.text is not None,
            "pieces": self.pieces is not None,
            "tool_calls": bool(self.tool_calls),
            "huge": self.huge is not None,
            "empty_text": self.empty_text,
        }
        return [name for name, is_given in given.items() if is_given]

    def _faults(self) -> list[Fault]:
        values = {fault: getattr(self, fault) for fault in Fault}  # 0 is a number of pieces
        return [
            fault for fault, value in values.items() if value is not None and value is not False
        ]


def _one_at_most(what: str, names: Sequence[str]) -> None:
    if len(names) > 1:
        raise ValueError(f"a scenario has one {what}, not {' and '.join(names)}")


DynamicScenario = Callable[[Call], Scenario | None]
"""Decides per call, on the server's thread; None leaves the call to the assistant."""

Behaviour = Scenario | DynamicScenario


class Script:
    """Which behaviour the next call gets. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queued: deque[Behaviour] = deque()
        self._standing: Behaviour | None = None

    def respond(self, behaviour: Behaviour | None) -> None:
        with self._lock:
            self._standing = behaviour

    def enqueue(self, *behaviours: Behaviour) -> None:
        with self._lock:
            self._queued.extend(behaviours)

    def clear(self) -> None:
        with self._lock:
            self._queued.clear()
            self._standing = None

    def next(self, call: Call) -> Scenario | None:
        """The scenario for `call`: a queued one first, then the standing one, then none."""
        with self._lock:
            behaviour = self._queued.popleft() if self._queued else self._standing
        return behaviour(call) if callable(behaviour) else behaviour
