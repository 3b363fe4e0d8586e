"""Drawings of the agent's graph and of a request's way, as Mermaid and in words, from the code."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from langchain_openai import ChatOpenAI

from advanced.app.config import Settings
from advanced.app.main import create_app as create_advanced
from advanced.app.routes import agent as advanced_agent
from medium.app.main import create_app as create_medium
from medium.app.routes import agent as medium_agent
from shared.agent_service import AgentService
from shared.graph import Graph, build_graph
from shared.memory import LatestCheckpoints
from shared.tools import calculate, search_handbook

AGENT_ROUTES = {"medium": medium_agent.router, "advanced": advanced_agent.router}
ENDS = {"__start__": "START", "__end__": "END"}


def the_app(track: str) -> FastAPI:
    """The application, which opens nothing, with no setting of whoever runs this."""
    return create_medium() if track == "medium" else create_advanced(Settings(_env_file=None))


def graph(_: str = "") -> str:
    """As LangGraph draws the compiled graph, and what it shows, in a sentence."""
    llm = ChatOpenAI(model="drawn", api_key=lambda: "and never called")
    compiled: Graph = build_graph(llm, [search_handbook, calculate], LatestCheckpoints())
    drawn = compiled.get_graph()
    ways: dict[str, list[str]] = {}
    for edge in sorted(drawn.edges, key=lambda edge: (edge.source, edge.target)):
        ways.setdefault(edge.source, []).append(_in_words(edge.source, edge.target))
    words = "; ".join(
        f"{ENDS.get(source, source)} leads to {_either(ways[source])}"
        for source in drawn.nodes
        if source in ways
    )
    return f"```mermaid\n{drawn.draw_mermaid().expandtabs(2).strip()}\n```\n\n*In words:* {words}."


def _in_words(source: str, target: str) -> str:
    return "itself" if source == target else ENDS.get(target, target)


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def request_path(track: str) -> str:
    """Through the middleware, the dependencies and the route, to the service's method."""
    app = the_app(track)
    before = [_name(middleware.cls) for middleware in app.user_middleware]
    lines = ["flowchart TD", f"  client([client]) --> {' --> '.join(before)}"]
    table = ["| request | needs | asks | and that uses |", "|---|---|---|---|"]
    for route in AGENT_ROUTES[track].routes:
        if not isinstance(route, APIRoute):
            continue
        url = f"{next(iter(route.methods or ()))} {_prefixed(app, route)}"
        needed = [*_own_class(route), *_needed(route.dependant)]
        method = _asked_of_the_service(route)
        used = _used_by(method)
        lines.append(
            f'  {before[-1]} --> {route.name}_route["{url}"] -->'
            f' {route.name}_needs["{", ".join(needed)}"] --> {method}["AgentService.{method}"]'
            f" --> {' & '.join(f'{part}_[{part}]' for part in used)}"
        )
        table.append(
            f"| `{url}` | {', '.join(needed)} | `AgentService.{method}` | {', '.join(used)} |"
        )
    lines.append("  turns_ --> graph_ --> llm_[model]")
    words = (
        f"*In words:* every request passes, in this order, {', '.join(before)}. Then it depends on"
        " its address. A turn runs the graph, and the graph asks the model:"
    )
    return "\n".join(["```mermaid", *lines, "```", "", words, "", *table])


def _prefixed(app: FastAPI, route: APIRoute) -> str:
    """The address under which the application has it."""
    paths: list[str] = list(app.openapi()["paths"])
    return next(path for path in paths if path.endswith(route.path))


def _name(middleware: Any) -> str:
    """Of a function or class, also with some of its arguments already; of an object, its class."""
    plain = getattr(middleware, "func", middleware)
    return str(getattr(plain, "__name__", type(plain).__name__))


def _own_class(route: APIRoute) -> list[str]:
    """A class of its own does something before the route: it asks who is asking."""
    return [] if type(route) is APIRoute else [type(route).__name__]


def _needed(dependant: Dependant) -> Iterator[str]:
    for needed in dependant.dependencies:
        yield from _needed(needed)
        yield _name(needed.call)


def _asked_of_the_service(route: APIRoute) -> str:
    """Which method the route, or the dependency that opens its stream, calls."""
    calls = list(_dependencies_of(route.dependant))
    for function in filter(inspect.isfunction, [route.endpoint, *calls]):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "service"
            ):
                return node.func.attr
    raise LookupError(f"{route.name} asks no service")


def _used_by(method: str) -> list[str]:
    """Which of the service's parts this method of it speaks to."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(AgentService, method))))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return [part for part in ("turns", "graph", "sessions") if part in used]


def _dependencies_of(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    for needed in dependant.dependencies:
        if needed.call:
            yield needed.call
        yield from _dependencies_of(needed)
