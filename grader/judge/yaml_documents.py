"""YAML that a submission hands in, within bounds: aliases of aliases can be a billion values."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from grader.judge.documents import Unreadable

MOST_VALUES = 20_000
"""With each alias counted as what it stands for."""

DEEPEST = 40


def parse_yaml(text: str, name: str) -> Any:
    """The one document in it, as Compose and Prometheus understand it. Raises Unreadable."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        LookedThrough().size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as exc:
        line = f"line {exc.problem_mark.line + 1}: " if exc.problem_mark else ""
        raise Unreadable(f"{name} is not YAML: {line}{exc.problem}.") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise Unreadable(f"{name} is not YAML that can be used: {exc}") from exc


class Loader(yaml.SafeLoader):
    """As programs in Go read YAML: `yes`, `22:22` and `2026-01-31` are text, and so is each key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", "[-+]?(0|[1-9][0-9]{0,30})|0o?[0-7]{1,30}|0x[0-9a-fA-F]{1,30}", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", "<<", "<"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)


class LookedThrough:
    """A document's nodes, before anything is made of them."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._above: list[int] = []

    def size(self, node: yaml.Node) -> int:
        """With every alias written out. Raises a YAMLError for what no program should take."""
        if id(node) in self._above:
            raise refused("an alias stands for something that it is a part of", node)
        if len(self._above) > DEEPEST:
            raise refused(f"more than {DEEPEST} levels", node)
        if id(node) not in self._sizes:
            self._above.append(id(node))
            self._sizes[id(node)] = 1 + sum(map(self.size, children(node)))
            self._above.pop()
        if self._sizes[id(node)] > MOST_VALUES:
            raise refused(f"over {MOST_VALUES} values with all aliases written out", node)
        return self._sizes[id(node)]


def children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise refused("a key has to be text", key)
        if key.value in seen:
            raise refused(f"the key {key.value} occurs twice", key)
        seen.add(key.value)
    return [part for pair in node.value for part in pair]


def refused(problem: str, node: yaml.Node) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)
