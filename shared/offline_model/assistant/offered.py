"""The tools that a request offers: which the assistant knows, by their names and descriptions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shared.offline_model.answers import ToolCall
from shared.offline_model.assistant.passages import keywords
from shared.offline_model.assistant.questions import Kind, Part
from shared.offline_model.assistant.sums import expressions

Tool = dict[str, Any]


class Wants(StrEnum):
    """What a known tool is called with, and so how its answer is read."""

    TASK = "a part of the question, in words: a colleague who reports"
    QUERY = "search words: passages come back"
    EXPRESSION = "an expression: a number comes back"


_KNOWN = [
    (re.compile(r"research", re.IGNORECASE), Kind.KNOWLEDGE, Wants.TASK),
    (re.compile(r"analyst|analysis", re.IGNORECASE), Kind.ARITHMETIC, Wants.TASK),
    (re.compile(r"calculat|arithmetic|\bmath", re.IGNORECASE), Kind.ARITHMETIC, Wants.EXPRESSION),
    (re.compile(r"search|handbook|retriev", re.IGNORECASE), Kind.KNOWLEDGE, Wants.QUERY),
]
_FILLERS = {"integer": 1, "number": 1, "boolean": False, "array": [], "object": {}}


@dataclass(frozen=True, slots=True)
class KnownTool:
    name: str
    argument: str
    kind: Kind
    wants: Wants

    def calls_for(self, part: Part) -> list[ToolCall]:
        match self.wants:
            case Wants.TASK:
                values = [part.text]
            case Wants.QUERY:
                values = [keywords(part.text)]
            case Wants.EXPRESSION:
                values = expressions(part.text)
        return [ToolCall(self.name, {self.argument: value}) for value in values]


def known_tools(tools: Sequence[Tool]) -> dict[Kind, KnownTool]:
    """For each kind of question the first tool that is offered for it."""
    known: dict[Kind, KnownTool] = {}
    for tool in tools:
        function = tool["function"]
        about = recognised(function["name"], str(function.get("description") or ""))
        if about and about[0] not in known:
            kind, wants = about
            argument = next(iter(_arguments(function)), str(wants.name).lower())
            known[kind] = KnownTool(function["name"], argument, kind, wants)
    return known


def recognised(name: str, description: str = "") -> tuple[Kind, Wants] | None:
    """What a tool is for: its name decides, and only if that says nothing its description."""
    for text in (name, description):
        for pattern, kind, wants in _KNOWN:
            if pattern.search(text):
                return kind, wants
    return None


def forced_call(tool: Tool, question: str) -> ToolCall:
    """A call of a tool that must be called: its required arguments, filled as well as can be."""
    function = tool["function"]
    arguments = {name: _filled(schema, question) for name, schema in _arguments(function).items()}
    return ToolCall(function["name"], arguments)


def _filled(schema: Any, question: str) -> Any:
    schema = schema if isinstance(schema, dict) else {}
    if options := schema.get("enum"):
        return options[0]
    return _FILLERS.get(str(schema.get("type")), question)


def _arguments(function: Tool) -> dict[str, Any]:
    """The schemas of the required arguments; of all of them if none is required."""
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    properties = parameters.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = [name for name in parameters.get("required") or () if name in properties]
    return {name: properties[name] for name in required or properties}
