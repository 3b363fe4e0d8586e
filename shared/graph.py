"""The multi-agent graph: a supervisor answers, or first asks a researcher and an analyst.

START -> supervisor -> END
           |    ^
           v    |
    researcher, analyst    (side by side when the question has a part for each)
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.tools import BaseTool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite, Send

from shared.history import recent
from shared.llm import MAX_ANSWER, ask
from shared.models import MAX_ITERATIONS
from shared.state import AgentState, TurnContext
from shared.tools import failed

SUPERVISOR = """You are the supervisor of a team that answers questions on deploying AI agents.
Answer greetings and small talk yourself. Ask the researcher for facts about the course's subject
and the analyst for any arithmetic; ask both when a question has a part for each. When they have
reported, answer the user from their reports and keep the sources they name."""
RESEARCHER = """You are a researcher. Search the course handbook, then report what it says in a few
sentences and name the page you used. If it says nothing on the matter, say so."""
ANALYST = """You are an analyst. Work out every number with the calculator, never in your head, then
report the result in one sentence."""

OUT_OF_ITERATIONS = (
    "I stopped before I had an answer: this question needs more model calls than max_iterations "
    "allows. Ask something smaller, or allow more."
)

STEPS = 3 * MAX_ITERATIONS + 10
"""LangGraph's own bound, never the first to stop a turn: that is `max_iterations`."""

CLEARED = cast(list[BaseMessage], Overwrite([]))  # replaces the list where a list would add to it

ROUTES = {"ask_researcher": "researcher", "ask_analyst": "analyst"}

Input = TypeVar("Input", contravariant=True)
Graph = CompiledStateGraph[AgentState, TurnContext, AgentState, AgentState]


class Node(Protocol[Input]):
    """A step of the graph; LangGraph passes the run's context as `runtime`."""

    async def __call__(self, state: Input, *, runtime: Runtime[TurnContext]) -> dict[str, Any]: ...


def build_graph(
    llm: ChatOpenAI,
    tools: Sequence[BaseTool],
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> Graph:
    """Wire the team. `tools` are the researcher's search and the analyst's calculator, in order."""
    search, calculator = tools
    graph = StateGraph(AgentState, context_schema=TurnContext)
    graph.add_node("supervisor", supervisor(llm))
    graph.add_node("researcher", specialist("researcher", RESEARCHER, llm, search))
    graph.add_node("analyst", specialist("analyst", ANALYST, llm, calculator))
    graph.add_edge(START, "supervisor")
    graph.add_conditional_edges(
        "supervisor", hand_over, ["researcher", "analyst", "supervisor", END]
    )
    graph.add_edge("researcher", "supervisor")
    graph.add_edge("analyst", "supervisor")
    return graph.compile(checkpointer=checkpointer).with_config(recursion_limit=STEPS)


def supervisor(llm: ChatOpenAI) -> Node[AgentState]:
    """Answers from the conversation and this turn's reports, or asks for reports."""
    model = llm.bind_tools(
        [
            handover("ask_researcher", "Look it up in the course handbook. Give a whole question."),
            handover("ask_analyst", "Calculate exactly. Give a whole task in words."),
        ]
    )

    async def node(state: AgentState, *, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        turn, room = runtime.context, MAX_ANSWER - len(state["response"])
        if turn.exhausted:
            await turn.say("supervisor", OUT_OF_ITERATIONS[:room])
            return finish(state, OUT_OF_ITERATIONS[:room], "max_iterations")
        if not room:
            return finish(state, "", "max_length")
        conversation = [
            SystemMessage(SUPERVISOR),
            *recent(state["messages"], beginning=HumanMessage),
            HumanMessage(state["query"]),
            *recent(state["work"], beginning=AIMessage),
        ]
        answer = await ask(model, conversation, turn, "supervisor", aloud=True, room=room)
        if not answer.tool_calls:
            return finish(state, answer.text, answer.response_metadata["stopped"])
        said = str(answer.text)
        if said:  # some models think aloud before they call a tool
            gap = "\n\n"[: room - len(said)]
            await turn.say("supervisor", gap)
            said += gap
        for call in answer.tool_calls:
            await turn.note_tool("supervisor", call["name"], call["args"])
        lost = [unknown(call) for call in answer.tool_calls if not route(call)]
        turn.flawed |= bool(lost)
        return {"response": state["response"] + said, "work": [answer, *lost]}

    return node


def specialist(name: str, prompt: str, llm: ChatOpenAI, its_tool: BaseTool) -> Node[ToolCall]:
    """Works on one task with one tool until it can report."""
    model = llm.bind_tools([its_tool])

    async def node(state: ToolCall, *, runtime: Runtime[TurnContext]) -> dict[str, Any]:
        turn = runtime.context
        task = [SystemMessage(prompt), HumanMessage(state["args"]["task"])]
        work: list[BaseMessage] = []
        report = "No report: the allowance of model calls is used up."
        while not turn.exhausted:
            answer = await ask(model, [*task, *recent(work, beginning=AIMessage)], turn, name)
            if not answer.tool_calls:
                report = answer.text
                turn.flawed |= answer.response_metadata["stopped"] is not None
                break
            work.append(answer)
            for call in answer.tool_calls:
                await turn.note_tool(name, call["name"], call["args"])
                known = call["name"] == its_tool.name
                result = await its_tool.ainvoke(call) if known else unknown(call)
                turn.flawed |= not known or failed(result.text)
                work.append(result)
        return {"work": [ToolMessage(report, tool_call_id=state["id"])]}

    return node


def new_turn(query: str) -> AgentState:
    """The graph's input: a question, and nothing left over from an earlier turn but `messages`."""
    fresh = {"query": query, "response": "", "work": CLEARED, "stopped": None}
    return cast(AgentState, fresh)


def finish(state: AgentState, text: str, stopped: str | None) -> dict[str, Any]:
    """The turn is over: question and answer join the conversation together."""
    response = state["response"] + text
    return {
        "messages": [HumanMessage(state["query"]), AIMessage(response)],
        "response": response,
        "work": CLEARED,
        "stopped": stopped,
    }


async def hand_over(state: AgentState) -> list[Send] | str:
    """Who is next: the specialists just asked, the supervisor again, or nobody."""
    if not state["work"]:
        return END
    asked = next(m for m in reversed(state["work"]) if isinstance(m, AIMessage)).tool_calls
    return [Send(node, call) for call in asked if (node := route(call))] or "supervisor"


def handover(name: str, description: str) -> dict[str, Any]:
    """A tool that the supervisor may call; the graph answers the call with a specialist's work."""
    parameters = {
        "type": "object",
        "properties": {"task": {"type": "string"}},
        "required": ["task"],
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def route(call: ToolCall) -> str | None:
    """The specialist whom a tool call of the supervisor means; None if it means nobody."""
    return ROUTES.get(call["name"]) if isinstance(call["args"].get("task"), str) else None


def unknown(call: ToolCall) -> ToolMessage:
    """Every tool call needs an answer, or the model's API refuses the next request."""
    return ToolMessage(
        "There is no such tool, or its arguments are wrong.", tool_call_id=call["id"]
    )
