"""The last hop: one checked call to the model, real OpenAI or anything that speaks its protocol."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from typing import Any, cast

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import SecretStr

from shared.chat_completions import ChatCompletions
from shared.errors import AgentError, ConfigurationError, ModelError
from shared.state import TurnContext

logger = logging.getLogger(__name__)

MAX_ANSWER = 100_000
"""Characters; a longer answer is cut and says `stopped: "max_length"`."""

MAX_ARGUMENTS = 10_000
"""Characters of tool calls in one answer; of a stream, each piece counts as one at least."""

MAX_TOOL_CALLS = 16

RETRY_PAUSES = (0.2, 0.8)
"""Seconds before the second and the third attempt; up to a quarter more is added by chance."""

Model = Runnable[Any, AIMessage]

UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What LangChain raises when an answer is JSON but not an answer."""


@asynccontextmanager
async def open_llm(
    *,
    model: str,
    api_key: str | None = None,
    base_url: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    max_calls: int = 0,
) -> AsyncIterator[ChatOpenAI]:
    """The chat model, real or offline: only `base_url` differs. Its connections last as the block.

    Without a `temperature` the model's own holds; some models refuse any. `max_tokens` bounds an
    answer, `max_calls` the calls at the same time: more wait, and 0 is no bound. Raises
    ConfigurationError (a ValueError) when neither a key nor a base URL is given; a
    compatible server may need no key.
    """
    if not api_key and not base_url:
        raise ConfigurationError(
            "OPENAI_API_KEY is not set: set it, or set OPENAI_BASE_URL to a compatible server, "
            "or start with `make medium`, which brings an offline model."
        )
    key = api_key or "not-needed"
    async with ChatCompletions(base_url=base_url, api_key=key, at_once=max_calls) as completions:
        yield ChatOpenAI(
            model=model,
            api_key=SecretStr(key),
            base_url=base_url,
            temperature=temperature,
            max_completion_tokens=max_tokens,
            async_client=completions,
            client=BlockingClient(key, base_url),
            stream_chunk_timeout=None,  # the turn has the deadline
            stream_usage=True,  # off by default as soon as a base URL is set
            use_responses_api=False,
        )


class BlockingClient:
    """OpenAI's own, made when it is first called. Nothing here calls it, for it keeps everybody
    else waiting; to make it reads all of the system's certificates, half of a service's start."""

    def __init__(self, api_key: str, base_url: str | None) -> None:
        self._api_key = api_key
        self._base_url = base_url

    @cached_property
    def _completions(self) -> Any:
        return OpenAI(api_key=self._api_key, base_url=self._base_url).chat.completions

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copying looks for; it is not worth the certificates
            raise AttributeError(name)
        return getattr(self._completions, name)


async def reachable(llm: ChatOpenAI) -> bool:
    """Whether the server of an `open_llm` answers and takes the key. Costs no tokens."""
    completions: ChatCompletions = llm.async_client
    return await completions.reachable()


async def ask(
    model: Model,
    messages: Sequence[BaseMessage],
    turn: TurnContext,
    agent: str,
    *,
    aloud: bool = False,
    room: int = MAX_ANSWER,
) -> AIMessage:
    """Call the model once: one iteration, with at most two repeated attempts.

    With `aloud`, the text goes to the reader as it comes, if there is one; it is cut at `room`
    characters. Raises ModelUnavailable or ModelError; the deadline is the caller's. An attempt is
    repeated only when that may help, while none of its text has been told, and never when the
    upstream has said when to come back.
    """
    turn.iterations += 1
    told = False

    async def tell(text: str) -> None:
        nonlocal told
        told = True
        await turn.say(agent, text)

    started = time.perf_counter()
    for pause in (*RETRY_PAUSES, None):
        try:
            if aloud and turn.emit:
                answer = await streamed(model, messages, tell, room)
            else:
                answer = await model.ainvoke(messages)
            return checked(answer, turn, room)
        except UNREADABLE as exc:
            logger.warning("The model's answer cannot be read: %s", type(exc).__name__)
            raise ModelError("Its answer could not be read.") from exc
        except AgentError as exc:
            if pause is None or told or not exc.transient:
                raise
            await asyncio.sleep(pause * random.uniform(1, 1.25))
        finally:
            turn.model_seconds += time.perf_counter() - started
            started = time.perf_counter()
    raise AssertionError("the last attempt returns or raises")


async def streamed(
    model: Model,
    messages: Sequence[BaseMessage],
    tell: Callable[[str], Awaitable[None]],
    room: int,
) -> AIMessage:
    """The whole answer, after each piece of its text has been told, up to `room` characters."""
    text: list[str] = []
    calls: list[AIMessageChunk] = []
    arguments = 0
    usage, reason = None, None
    stream = cast(AsyncGenerator[AIMessageChunk, None], model.astream(messages))
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            usage = chunk.usage_metadata or usage  # some servers count up with every chunk
            reason = chunk.response_metadata.get("finish_reason") or reason
            if piece := chunk.text[:room]:
                text.append(piece)
                room -= len(piece)
                await tell(piece)
            if len(piece) < len(chunk.text):
                reason = "length"
                break  # leaving the stream stops the model
            if chunk.tool_call_chunks:
                calls.append(AIMessageChunk(content="", tool_call_chunks=chunk.tool_call_chunks))
                arguments += sum(len(call["args"] or " ") for call in chunk.tool_call_chunks)
                if arguments > MAX_ARGUMENTS:
                    raise ModelError("Its tool calls have no end.")
    called = add_ai_message_chunks(AIMessageChunk(content=""), *calls)
    return AIMessage(
        "".join(text),
        tool_calls=called.tool_calls,
        invalid_tool_calls=called.invalid_tool_calls,
        usage_metadata=usage,
        response_metadata={"finish_reason": reason},
    )


def checked(answer: AIMessage, turn: TurnContext, room: int) -> AIMessage:
    """The answer as the graph may use it: never empty, never too long, every tool call answerable.

    `response_metadata["stopped"]` says why it is not whole: "max_length" when it was cut, here or
    by the model's own limit, or "content_filter".
    """
    if usage := answer.usage_metadata:
        turn.count_tokens(usage)
    asked = [*answer.tool_calls, *answer.invalid_tool_calls]
    if sum(len(str(call["args"])) for call in asked) > MAX_ARGUMENTS:
        raise ModelError("Its tool calls have no end.")
    # A call whose arguments are no JSON goes on without any, so that its tool can say so.
    calls = answer.tool_calls + [
        tool_call(name=call["name"] or "", args={}, id=call["id"])
        for call in answer.invalid_tool_calls
    ]
    text, reason = answer.text, answer.response_metadata.get("finish_reason")
    if not reason or not (text.strip() or calls):
        raise ModelError("Its answer was empty, or broke off.")
    if len(calls) > MAX_TOOL_CALLS:
        raise ModelError("It called too many tools at once.")
    stopped = {"length": "max_length", "content_filter": "content_filter"}.get(reason)
    return AIMessage(
        text[:room],
        tool_calls=[
            {**call, "args": sendable(call["args"]), "id": call["id"] or f"call_{number}"}
            for number, call in enumerate(calls)
        ],
        response_metadata={"stopped": "max_length" if len(text) > room else stopped},
    )


def sendable(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, or none if JSON has no words for them: lone surrogates, endless nesting."""
    try:
        orjson.dumps(arguments)
    except TypeError:
        return {}
    return arguments
