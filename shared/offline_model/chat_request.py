"""Reads a chat-completions request, as strictly as OpenAI does.

The shapes are those of https://platform.openai.com/docs/api-reference/chat/create.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from shared.offline_model.protocol import ApiError, JsonObject

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The parts of a request's body that change the answer; `body` has all of it."""

    body: JsonObject
    model: str
    messages: Sequence[JsonObject]
    tools: Sequence[JsonObject] = ()
    tool_choice: str | None = None
    """`none`, `auto`, `required`, or None. A tool named by the request is in `named_tool`."""
    named_tool: str | None = None
    parallel_tool_calls: bool = True
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False


def read_json(raw: bytes) -> JsonObject:
    """The body as an object; ApiError 400 for everything else, NaN and bottomless nesting too."""
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ApiError(
            400, "The body could not be parsed as JSON. Send a JSON object, encoded as UTF-8."
        ) from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_chat_request(body: JsonObject) -> ChatRequest:
    """The request in `body`, checked as strictly as OpenAI checks it; else ApiError 400."""
    model = _field(body, "model", str, "a string", required=True)
    messages = _field(body, "messages", list, "an array of objects", required=True)
    stream = _field(body, "stream", bool, "a boolean") or False
    tools = _read_tools(body)
    tool_choice, named_tool = _read_tool_choice(body, tools)
    if _field(body, "n", int, "an integer") not in (None, 1):
        raise _invalid("n", "This server gives one answer per call: leave 'n' out or send 1.")
    _check_messages(messages)
    return ChatRequest(
        body=body,
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        named_tool=named_tool,
        parallel_tool_calls=_field(body, "parallel_tool_calls", bool, "a boolean") is not False,
        max_tokens=_read_max_tokens(body),
        stream=stream,
        include_usage=_read_include_usage(body, stream),
    )


def _field(body: JsonObject, name: str, kind: type, article: str, *, required: bool = False) -> Any:
    value = body.get(name)
    if value is None:
        if required:
            raise ApiError(
                400,
                f"Missing required parameter: '{name}'.",
                code="missing_required_parameter",
                param=name,
            )
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ApiError(
            400,
            f"Invalid type for '{name}': expected {article}.",
            code="invalid_type",
            param=name,
        )
    return value


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)


def _read_max_tokens(body: JsonObject) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value: int | None = _field(body, name, int, "an integer")
        if value is not None:
            if value < 1:
                raise _invalid(name, f"Invalid '{name}': it must be 1 or more.")
            return value
    return None


def _read_include_usage(body: JsonObject, stream: bool) -> bool:
    options = _field(body, "stream_options", dict, "an object")
    if options is None:
        return False
    if not stream:
        raise _invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    return bool(_field(options, "include_usage", bool, "a boolean"))


def _read_tools(body: JsonObject) -> list[JsonObject]:
    tools: list[Any] = _field(body, "tools", list, "an array of objects") or []
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            param = f"tools[{number}]"
            raise _invalid(param, f"Invalid '{param}': expected a function with a name.")
    return tools


def _read_tool_choice(
    body: JsonObject, tools: Sequence[JsonObject]
) -> tuple[str | None, str | None]:
    choice = body.get("tool_choice")
    if choice is None:
        return None, None
    if not tools:
        raise _invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are given.")
    if choice in ("none", "auto", "required"):
        return choice, None
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in {tool["function"]["name"] for tool in tools}:
        raise _invalid("tool_choice", "'tool_choice' must be a word or name one of the 'tools'.")
    return "required", name


def _check_messages(messages: Sequence[Any]) -> None:
    if not messages:
        raise _invalid("messages", "Invalid 'messages': expected one message at least.")
    for number, message in enumerate(messages):
        _check_message(message, f"messages[{number}]")
    _check_tool_turns(messages)


def _check_message(message: Any, param: str) -> None:
    if not isinstance(message, dict):
        raise ApiError(
            400,
            f"Invalid type for '{param}': expected an object.",
            code="invalid_type",
            param=param,
        )
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _invalid(f"{param}.role", f"Invalid value for '{param}.role'.")
    content = message.get("content")
    if content is None and role != "assistant":
        raise _invalid(f"{param}.content", f"Invalid value for '{param}.content': got null.")
    if not isinstance(content, str | list | None):
        raise ApiError(
            400,
            f"Invalid type for '{param}.content': expected a string or an array of parts.",
            code="invalid_type",
            param=f"{param}.content",
        )


def _check_tool_turns(messages: Sequence[JsonObject]) -> None:
    """Every tool call is answered before anything else is said: a history that OpenAI refuses is
    refused here too, so that a dangling call shows up without a key."""
    open_ids: list[str] = []
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_ids:
                raise _invalid(
                    f"messages[{number}].role",
                    "Messages with role 'tool' must answer a preceding message with 'tool_calls'.",
                )
            open_ids.remove(message["tool_call_id"])
            continue
        _refuse_open_calls(open_ids)
        open_ids = _tool_call_ids(message, f"messages[{number}].tool_calls")
    _refuse_open_calls(open_ids)


def _tool_call_ids(message: JsonObject, param: str) -> list[str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(_has_id(call) for call in calls):
        raise _invalid(param, f"Invalid '{param}': expected an array of objects with an 'id'.")
    return [call["id"] for call in calls]


def _has_id(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("id"), str)


def _refuse_open_calls(open_ids: Sequence[str]) -> None:
    if open_ids:
        raise _invalid(
            "messages",
            "An assistant message with 'tool_calls' must be followed by tool messages responding"
            f" to each 'tool_call_id'. Without a response: {', '.join(open_ids)}.",
        )
