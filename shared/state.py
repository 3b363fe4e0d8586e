"""What the graph remembers (AgentState) and what one run of it carries along (TurnContext)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from operator import add
from typing import Annotated, Any, TypedDict

from langchain_core.messages import BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langgraph.graph.message import add_messages


class AgentState(TypedDict):
    """The state of one conversation, kept by the checkpointer (hand-out, `AgentState`)."""

    messages: Annotated[list[BaseMessage], add_messages]
    """Finished turns only: a question enters together with its answer, so a turn that fails or
    is cancelled leaves neither half a turn nor a tool call without its result."""

    query: str
    """The question of the turn under way."""

    response: str
    """The answer so far; complete when the graph has ended."""

    work: Annotated[list[BaseMessage], add]
    """This turn's scratch pad: what the supervisor asked for and what its specialists found."""

    stopped: str | None
    """Why the answer is not whole: "max_iterations", "max_length", "content_filter" or None."""


@dataclass
class TurnContext:
    """What one turn may spend and where its words go; LangGraph hands it to every node."""

    max_iterations: int
    emit: Callable[[str, dict[str, Any]], Awaitable[None]] | None = None
    """Takes a piece of text and its metadata, and waits while the reader is behind.
    None: nobody listens, the model is asked for whole answers."""

    iterations: int = 0
    """Model calls so far, specialists' included; a repeated attempt is the same call."""

    tokens_used: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    model_seconds: float = 0.0
    """Spent waiting for the model; calls side by side count each."""

    tools: list[dict[str, Any]] = field(default_factory=list)
    flawed: bool = False
    """Whether a tool call came to nothing or a report was cut: no answer to repeat to others."""

    cached: bool = False
    """Whether the answer was made for somebody else's question, or an earlier one."""

    @property
    def exhausted(self) -> bool:
        return self.iterations >= self.max_iterations

    async def say(self, agent: str, text: str, **metadata: Any) -> None:
        """Tell the reader, if there is one."""
        if self.emit is not None:
            await self.emit(text, {"agent": agent, **metadata})

    async def note_tool(self, agent: str, name: str, arguments: dict[str, Any]) -> None:
        self.tools.append({"agent": agent, "name": name, "arguments": arguments})
        await self.say(agent, "", tool={"name": name, "arguments": arguments})

    def count_tokens(self, usage: UsageMetadata) -> None:
        self.tokens_used = (self.tokens_used or 0) + max(usage["total_tokens"], 0)
        self.input_tokens += max(usage["input_tokens"], 0)
        self.output_tokens += max(usage["output_tokens"], 0)

    def summary(self) -> dict[str, Any]:
        """What a client is told of every turn, beside the answer."""
        return {"iterations": self.iterations, "cached": self.cached}
