"""The offline model's own behaviour: it reads a request and answers as a helpful model would.

It knows nothing of the graph that calls it. What it does depends on the tools that are offered and
on the messages alone: no chance, no clock, and the user's text is only ever data.
"""

import re

from shared.offline_model.answers import Answer, ToolCall, call_tools, say
from shared.offline_model.assistant.conversation import Conversation, ToolResult
from shared.offline_model.assistant.offered import (
    KnownTool,
    Wants,
    forced_call,
    known_tools,
    recognised,
)
from shared.offline_model.assistant.passages import answer_from
from shared.offline_model.assistant.questions import Kind, Part, parts_of
from shared.offline_model.assistant.small_talk import NOT_OFFLINE
from shared.offline_model.chat_request import ChatRequest

Known = dict[Kind, KnownTool]
_CANNOT = {
    Kind.KNOWLEDGE: "I would have to look that up, and no tool to search with was offered to me.",
    Kind.ARITHMETIC: "I would have to calculate that, and no calculator was offered to me.",
}
_FAILED = re.compile(r"\s*(?:cannot calculate|error|could not calculate)\b:?\s*", re.IGNORECASE)


def reply(request: ChatRequest) -> Answer:
    """Tool calls as long as a part of the question needs one, then an answer made of the results.

    `tool_choice` and `parallel_tool_calls` are obeyed; a tool that is not offered is never called.
    """
    conversation = Conversation(request.messages)
    known = known_tools(request.tools)
    parts = _as_specialist(parts_of(conversation), conversation.question, known)
    results = conversation.results()
    calls = _calls(request, parts, known)[len(results) :]
    if not calls and request.tool_choice == "required":
        calls = [_forced(request, conversation.question)]
    if calls and request.tool_choice != "none":
        return call_tools(calls if request.parallel_tool_calls else calls[:1])
    return say(_answer(parts, results, conversation.question, known))


def _as_specialist(parts: list[Part], question: str, known: Known) -> list[Part]:
    """With nothing but a search every question is looked up, with nothing but a calculator only
    what can be calculated counts: such a caller knows what it asks for."""
    if {part.kind for part in parts} <= {Kind.SMALL_TALK, Kind.RECOLLECTION}:
        return parts
    wants = [tool.wants for tool in known.values()]
    if wants == [Wants.QUERY]:
        return [Part(Kind.KNOWLEDGE, question)]
    if wants == [Wants.EXPRESSION]:
        sums = [part for part in parts if part.kind is Kind.ARITHMETIC]
        return sums or [Part(Kind.OTHER, question, "I found nothing to calculate in that.")]
    return parts


def _calls(request: ChatRequest, parts: list[Part], known: Known) -> list[ToolCall]:
    tools = [(known[part.kind], part) for part in parts if part.kind in known]
    if request.named_tool:
        tools = [(tool, part) for tool, part in tools if tool.name == request.named_tool]
    return [call for tool, part in tools for call in tool.calls_for(part)]


def _forced(request: ChatRequest, question: str) -> ToolCall:
    named = [
        tool for tool in request.tools if tool["function"]["name"] == request.named_tool
    ] or request.tools
    return forced_call(named[0], question)


def _answer(parts: list[Part], results: list[ToolResult], question: str, known: Known) -> str:
    """Everything that is known by now, one paragraph for each part."""
    serious = [part for part in parts if part.kind is not Kind.SMALL_TALK]
    said = [_own_words(part, known) for part in serious or parts[-1:]]
    found = [_told(result, question) for result in results]
    paragraphs = dict.fromkeys(filter(None, [*said, *found]))
    return "\n\n".join(paragraphs) or NOT_OFFLINE


def _own_words(part: Part, known: Known) -> str:
    """What can be said of a part without a tool."""
    if part.answer:
        return part.answer
    if part.kind in _CANNOT:
        return "" if part.kind in known else _CANNOT[part.kind]
    return ""


def _told(result: ToolResult, question: str) -> str:
    about = recognised(result.name)
    if about and about[1] is Wants.QUERY:
        return answer_from(result.text, question)
    if about and about[1] is Wants.EXPRESSION:
        return _sum(result)
    return result.text.strip()


def _sum(result: ToolResult) -> str:
    expression = " ".join(str(value) for value in result.arguments.values())
    if failed := _FAILED.match(result.text):
        reason = result.text[failed.end() :].strip().rstrip(".") or "no reason was given"
        return f"I could not calculate {expression}: {reason}."
    return f"{expression} = {result.text.strip()}."
