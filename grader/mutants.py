"""`make mutants`: breaks each solution a little, in every place, and asks the suite to notice."""

import ast
import copy
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pydantic import Field

from grader.catalogue import Exercise, Strict
from grader.report import Verdict
from grader.runner import Grader
from grader.verify import matrix_folder
from grader.workspace import Intake, solution_files, take_in

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Equivalent(Strict):
    """A mutant that no test can kill, and why."""

    mutant: str
    why: str = Field(min_length=10)


class Equivalents(Strict):
    """`equivalents.toml`, beside the matrix."""

    equivalent: tuple[Equivalent, ...] = ()


@dataclass(frozen=True)
class Mutant:
    """`name` says where it is and what was changed, without line numbers, which move."""

    name: str
    files: dict[str, bytes]


def argued(exercise: Exercise) -> set[str]:
    path = matrix_folder(exercise) / "equivalents.toml"
    if not path.exists():
        return set()
    read = Equivalents.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    return {equivalent.mutant for equivalent in read.equivalent}


def mutants(exercise: Exercise) -> Iterator[Mutant]:
    """One for each place in the statements that the student has to write."""
    solution, starter = solution_files(exercise), take_in(exercise, exercise.folder).files
    for path, source in solution.items():
        if path.endswith(".py"):
            given = _functions(ast.parse(starter.get(path, b"")))
            for name, mutated in _of_file(ast.parse(source), given):
                text = ast.unparse(mutated)
                yield Mutant(f"{path} {name}", {**solution, path: text.encode()})


def _functions(tree: ast.AST, prefix: str = "") -> dict[str, set[str]]:
    """The texts of each function's statements, by its qualified name."""
    found: dict[str, set[str]] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            found |= _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (part for part in ast.walk(node) if isinstance(part, ast.stmt))
            found[prefix + node.name] = {ast.unparse(statement) for statement in inner}
    return found


def _of_file(tree: ast.Module, given: dict[str, set[str]]) -> Iterator[tuple[str, ast.Module]]:
    for name in _functions(tree):
        seen: dict[str, int] = {}
        theirs = given.get(name, set())
        for place in range(len(list(_changes(_find(tree, name), theirs)))):
            mutated = copy.deepcopy(tree)
            said = list(_changes(_find(mutated, name), theirs))[place]()
            seen[said] = seen.get(said, 0) + 1
            again = f" ({seen[said]})" if seen[said] > 1 else ""
            yield f"{name}: {said}{again}", ast.fix_missing_locations(mutated)


def _find(tree: ast.AST, name: str) -> ast.AST:
    for part in name.split("."):
        tree = next(
            node for node in ast.iter_child_nodes(tree) if getattr(node, "name", "") == part
        )
    return tree


def _changes(function: ast.AST, given: set[str]) -> Iterator[Callable[[], str]]:
    """What can be changed, each as a function that does it and says what it did."""
    for node in _walk(function, given):
        if isinstance(node, ast.Compare):
            yield partial(_swap, node)
        elif isinstance(node, ast.BinOp | ast.BoolOp):
            if type(node.op) in SWAPPED:
                yield partial(_swap_operator, node)
        elif isinstance(node, ast.If | ast.While):
            yield partial(_negate, node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield partial(_other_number, node)
        for body in _bodies(node):
            for index, statement in enumerate(body):
                if _can_go(statement) and ast.unparse(statement) not in given:
                    yield partial(_leave_out, body, index)


def _walk(node: ast.AST, given: set[str]) -> Iterator[ast.AST]:
    """Like `ast.walk`, but not into statements that the starter has, too."""
    if isinstance(node, ast.stmt) and ast.unparse(node) in given:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, given)


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list):
            yield body


def _can_go(statement: ast.stmt) -> bool:
    """A docstring does nothing, and leaving out a pass changes nothing."""
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    kinds = (ast.Raise, ast.Return, ast.AugAssign, ast.Delete, ast.Break, ast.Continue, ast.Assign)
    return isinstance(statement, kinds)


def _swap(node: ast.Compare) -> str:
    before = ast.unparse(node)
    other = SWAPPED[type(node.ops[0])]()
    assert isinstance(other, ast.cmpop)
    node.ops[0] = other
    return f"{before} -> {ast.unparse(node)}"


def _swap_operator(node: ast.BinOp | ast.BoolOp) -> str:
    before = ast.unparse(node)
    # The table has an operator of the same kind for each; its type cannot say so.
    node.op = SWAPPED[type(node.op)]()  # type: ignore[assignment]
    return f"{before} -> {ast.unparse(node)}"


def _negate(node: ast.If | ast.While) -> str:
    before = ast.unparse(node.test)
    if isinstance(node, ast.While):
        node.test = ast.Constant(value=False)  # the other way round it would not end
        return f"while {before} -> while False"
    node.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
    return f"if {before} -> if not"


def _other_number(node: ast.Constant) -> str:
    before = node.value
    assert isinstance(before, int | float)
    node.value = not before if isinstance(before, bool) else before + 1
    return f"{before} -> {node.value}"


def _leave_out(body: list[ast.stmt], index: int) -> str:
    before = ast.unparse(body[index]).splitlines()[0]
    body[index] = ast.Pass()
    return f"without {before}"


def killed(
    grader: Grader, exercise: Exercise, planned: Sequence[Mutant], tell: Callable[[str], None]
) -> list[bool]:
    """For each, whether a check noticed. What could not be told is said, and does not count."""
    grader.ready()

    def one(mutant: Mutant) -> bool:
        report = grader.grade(exercise, Intake(mutant.files), seed=1, first_failure_only=True)
        said = fate([check.verdict for check in report.checks])
        tell(f"{said:<16}{mutant.name}")
        return said == "killed"

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        return list(pool.map(one, planned))


def fate(verdicts: Sequence[Verdict]) -> str:
    if set(verdicts) - {Verdict.PASSED, Verdict.COULD_NOT_TELL}:
        return "killed"
    return "could not tell" if Verdict.COULD_NOT_TELL in verdicts else "SURVIVED"
