"""The last hop: one checked call to the model, real OpenAI or anything that speaks its protocol."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from shared.chat_completions import ChatCompletions
from shared.errors import AgentError, ConfigurationError, ModelError
from shared.state import TurnContext

logger = logging.getLogger(__name__)

MAX_ANSWER = 100_000
"""Characters; a longer answer is cut and says `stopped: "max_length"`."""

HISTORY_MESSAGES = 20
HISTORY_CHARACTERS = 12_000
"""What is sent of a conversation: about 3,000 tokens at four characters each, whole turns only."""

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
    temperature: float = 0.0,
) -> AsyncIterator[ChatOpenAI]:
    """The chat model, real or offline: only `base_url` differs. Its connections last as the block.

    Raises ConfigurationError (a ValueError) when neither a key nor a base URL is given; a
    compatible server may need no key.
    """
    if not api_key and not base_url:
        raise ConfigurationError(
            "OPENAI_API_KEY is not set: set it, or set OPENAI_BASE_URL to a compatible server, "
            "or start with `make medium`, which brings an offline model."
        )
    key = api_key or "not-needed"
    async with ChatCompletions(base_url=base_url, api_key=key) as completions:
        yield ChatOpenAI(
            model=model,
            api_key=SecretStr(key),
            base_url=base_url,
            temperature=temperature,
            async_client=completions,
            stream_chunk_timeout=None,  # the turn has the deadline
            stream_usage=True,  # off by default as soon as a base URL is set
            use_responses_api=False,
        )


def recent(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The newest whole turns (a question and its answer each) that may be sent, oldest first."""
    start, left = len(messages), HISTORY_CHARACTERS
    oldest = max(0, len(messages) - HISTORY_MESSAGES)
    while start > oldest:
        left -= sum(len(message.text) for message in messages[start - 2 : start])
        if left < 0:
            break
        start -= 2
    return list(messages[start:])


async def ask(
    model: Model,
    messages: Sequence[BaseMessage],
    turn: TurnContext,
    agent: str,
    *,
    aloud: bool = False,
) -> AIMessage:
    """Call the model once: one iteration, with at most two repeated attempts.

    With `aloud`, the text goes to the reader as it comes, if there is one. Raises
    ModelUnavailable or ModelError; the deadline is the caller's. An attempt is repeated only when
    that may help, while none of its text has been told, and never when the upstream has said when
    to come back.
    """
    turn.iterations += 1
    told = False

    async def tell(text: str) -> None:
        nonlocal told
        told = True
        await turn.say(agent, text)

    for pause in (*RETRY_PAUSES, None):
        try:
            if aloud and turn.emit:
                answer = await streamed(model, messages, tell)
            else:
                answer = await model.ainvoke(messages)
            return checked(answer, turn)
        except UNREADABLE as exc:
            logger.warning("The model's answer cannot be read: %s", type(exc).__name__)
            raise ModelError("Its answer could not be read.") from exc
        except AgentError as exc:
            if pause is None or told or not exc.transient:
                raise
            await asyncio.sleep(pause * random.uniform(1, 1.25))
    raise AssertionError("the last attempt returns or raises")


async def streamed(
    model: Model,
    messages: Sequence[BaseMessage],
    tell: Callable[[str], Awaitable[None]],
) -> AIMessage:
    """The whole answer, after each piece of its text has been told."""
    text, length = [], 0
    rest = AIMessageChunk(content="")  # tool calls, finish reason and usage
    stream = cast(AsyncGenerator[AIMessageChunk, None], model.astream(messages))
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            if piece := chunk.text[: MAX_ANSWER - length]:
                text.append(piece)
                length += len(piece)
                await tell(piece)
            if len(piece) < len(chunk.text):
                rest.response_metadata["finish_reason"] = "length"
                break  # leaving the stream stops the model
            if chunk.tool_call_chunks or chunk.usage_metadata or ends(chunk):
                rest += chunk.model_copy(update={"content": ""})
    return AIMessage(
        "".join(text),
        tool_calls=rest.tool_calls,
        invalid_tool_calls=rest.invalid_tool_calls,
        usage_metadata=rest.usage_metadata,
        response_metadata=rest.response_metadata,
    )


def ends(chunk: AIMessageChunk) -> bool:
    return "finish_reason" in chunk.response_metadata


def checked(answer: AIMessage, turn: TurnContext) -> AIMessage:
    """The answer as the graph may use it: never empty, never too long, every tool call answerable.

    `response_metadata["stopped"]` is "max_length" when it was cut here or by the model's own limit.
    """
    if usage := answer.usage_metadata:
        turn.count_tokens(usage["total_tokens"])
    # A call whose arguments are no JSON goes on without any, so that its tool can say so.
    calls = answer.tool_calls + [
        tool_call(name=call["name"] or "", args={}, id=call["id"])
        for call in answer.invalid_tool_calls
    ]
    text, reason = answer.text, answer.response_metadata.get("finish_reason")
    if not reason or not (text or calls):  # cut short, or empty
        raise ModelError("Its answer was empty, or broke off.")
    cut = len(text) > MAX_ANSWER or reason == "length"
    return AIMessage(
        text[:MAX_ANSWER],
        tool_calls=[{**call, "id": call["id"] or f"call_{n}"} for n, call in enumerate(calls)],
        response_metadata={"stopped": "max_length" if cut else None},
    )
