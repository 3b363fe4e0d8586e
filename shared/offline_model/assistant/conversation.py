"""What a request's messages say: the question, what was said before it, what tools have found."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_QUESTION = 4_000  # characters that are looked at; twice what the service lets a user send

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An earlier question and the answer it got."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    name: str
    arguments: dict[str, Any]
    text: str


class Conversation:
    """Messages of the system and of unknown roles are passed over: they are not questions."""

    def __init__(self, messages: Sequence[Message]) -> None:
        asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
        start = asked[-1] if asked else len(messages)
        self.question = _text(messages[start])[:MAX_QUESTION].strip() if asked else ""
        self._before = messages[:start]
        self._since = messages[start + 1 :]

    def results(self) -> list[ToolResult]:
        """What the tools have answered since the question."""
        calls: dict[str, tuple[str, dict[str, Any]]] = {}
        results = []
        for message in self._since:
            for call in message.get("tool_calls") or ():
                calls[call["id"]] = _called(call)
            if message["role"] == "tool":
                name, arguments = calls[message["tool_call_id"]]
                results.append(ToolResult(name, arguments, _text(message)))
        return results

    def earlier(self) -> list[Exchange]:
        """The earlier questions, newest first, each with the last thing that was said to it."""
        exchanges = []
        answer = ""
        for message in reversed(self._before):
            if message["role"] == "assistant":
                answer = answer or _text(message)
            elif message["role"] == "user":
                exchanges.append(Exchange(_text(message)[:MAX_QUESTION].strip(), answer))
                answer = ""
        return exchanges


def _called(call: Message) -> tuple[str, dict[str, Any]]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    try:
        arguments = json.loads(function.get("arguments", ""))
    except (TypeError, ValueError, RecursionError):
        arguments = None
    return str(function.get("name")), arguments if isinstance(arguments, dict) else {}


def _text(message: Message) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))
