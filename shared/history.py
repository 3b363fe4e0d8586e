"""How much of what was said is sent to the model again: as much as fits, newest first."""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage

RECENT_CHARACTERS = 12_000
RECENT_MESSAGES = 20
"""What is sent of a conversation, and again of a turn's work: about 3,000 tokens each."""


def recent(messages: Sequence[BaseMessage], beginning: type[BaseMessage]) -> list[BaseMessage]:
    """The newest exchanges that may be sent, oldest first; each starts with a `beginning`.

    An exchange is kept whole or left out: a tool call needs its result. The newest one is always
    kept, its texts cut if need be.
    """
    kept: list[BaseMessage] = []
    exchange: list[BaseMessage] = []
    for message in reversed(messages):
        exchange.insert(0, message)
        if isinstance(message, beginning):
            if kept and not fits([*exchange, *kept]):
                break
            kept = [*exchange, *kept]
            exchange = []
    if fits(kept):
        return kept
    share = RECENT_CHARACTERS // len(kept)
    return [message.model_copy(update={"content": message.text[:share]}) for message in kept]


def fits(messages: Sequence[BaseMessage]) -> bool:
    calls = (
        call
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    )
    size = sum(len(message.text) for message in messages) + sum(
        len(str(call["args"])) for call in calls
    )
    return len(messages) <= RECENT_MESSAGES and size <= RECENT_CHARACTERS
