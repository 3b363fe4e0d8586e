"""What the model has to say, before it is put on the wire: text and tool calls, cut into pieces."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Whitespace goes with the word after it, as in most tokenizers; long words come in several pieces.
_WORD_PIECE = re.compile(r"\s*\S{1,12}|\s+")
_ARGUMENT_PIECE = re.compile(r".{1,12}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. `arguments` given as a string is sent as it is, valid JSON or not."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)

    def arguments_text(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(dict(self.arguments), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ToolPiece:
    """One streamed step of a tool call: the first names the tool, the rest carry its arguments."""

    index: int
    name: str | None
    arguments: str


Piece = str | ToolPiece


@dataclass(frozen=True, slots=True)
class Answer:
    """The pieces of one answer in the order in which they are sent, and why it ends."""

    pieces: Sequence[Piece]
    finish_reason: str = "stop"

    def first(self, count: int, finish_reason: str | None = None) -> "Answer":
        return Answer(self.pieces[:count], finish_reason or self.finish_reason)

    def bounded(self, max_tokens: int | None) -> "Answer":
        """The answer that a limit of `max_tokens` pieces leaves, as OpenAI ends it: `length`."""
        if max_tokens is None or len(self.pieces) <= max_tokens:
            return self
        return self.first(max_tokens, "length")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call is said to have cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int

    def as_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def split_text(text: str) -> list[str]:
    """Word-sized pieces whose concatenation is exactly `text`."""
    return _WORD_PIECE.findall(text)


def say(text: str) -> Answer:
    return Answer(split_text(text))


def call_tools(calls: Iterable[ToolCall], preamble: str = "") -> Answer:
    """An answer that calls tools, after a few words of text if `preamble` has any."""
    pieces: list[Piece] = [*split_text(preamble)]
    for index, call in enumerate(calls):
        pieces.append(ToolPiece(index, call.name, ""))
        arguments = _ARGUMENT_PIECE.findall(call.arguments_text())
        pieces.extend(ToolPiece(index, None, part) for part in arguments)
    return Answer(pieces, "tool_calls")
