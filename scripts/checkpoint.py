"""`make checkpoint N=3`: catch up in a lab, with the course's own answer to its first parts.

A lab's `exercise.toml` says with which part each file begins, and its README which TODOs a part
has. Files of the parts up to N become the course's own, in which later TODOs that nobody has begun
stay as they are. What was there before is kept in `kept/`.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from grader.catalogue import ROOT, Exercise, GradingError, find

PART = re.compile(
    r"^### (\d+)\. (.+) \(TODO (\d+)(?:(?: to | and )(\d+))?, (\d+) minutes\)$", re.MULTILINE
)
TODO = re.compile(r"\bTODO (\d+)\b")
KEPT = "kept"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class NoCheckpoint(Exception):
    """Nothing was changed; the text is one sentence that says what to type."""


class Part:
    """One step of a lab, as its README announces it."""

    def __init__(self, number: str, title: str, first: str, last: str | None, minutes: str) -> None:
        self.number = int(number)
        self.title = title
        self.last_todo = int(last or first)
        self.minutes = int(minutes)


def parts_of(lab: Exercise) -> list[Part]:
    readme = (lab.folder / "README.md").read_text(encoding="utf-8")
    return [Part(*found) for found in PART.findall(readme)]


def catch_up(name: str, number: str, root: Path = ROOT) -> str:
    """Write the files, keep the old ones, and say so in one line. Raises NoCheckpoint."""
    lab, part = _chosen(name, number, root)
    fresh = {}
    for file in lab.files:
        if file.reference and file.step is not None and file.step <= part.number:
            path = lab.folder / file.path
            now = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            answer = (root / file.reference).read_text(encoding="utf-8")
            if path.suffix == ".py":
                answer = "".join(_with_what_is_left(answer, now, part.last_todo))
            if answer != now:
                fresh[path] = answer
    if not fresh:
        return f"{lab.short} has all of part {part.number} already; nothing was changed."
    kept = _keep(fresh, lab, root)
    for path, answer in fresh.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(answer, encoding="utf-8")
    names = ", ".join(str(path.relative_to(lab.folder)) for path in fresh)
    return (
        f"{lab.short} is at the end of part {part.number} ({part.title})."
        f" Now the course's: {names}. What you had: {kept.relative_to(root)}."
    )


def _chosen(name: str, number: str, root: Path) -> tuple[Exercise, Part]:
    try:
        lab = find(name, root)
    except GradingError as exc:
        raise NoCheckpoint(str(exc)) from None
    if not any(file.step for file in lab.files):
        raise NoCheckpoint(f"{lab.short} has no checkpoints; labs have, such as EX=medium/lab.")
    parts = {str(part.number): part for part in parts_of(lab)}
    if number not in parts:
        there = ", ".join(f"{part.number} ({part.title})" for part in parts.values())
        wrong = f"N={number} is no part of {lab.short}" if number else "Say which part, as in N=3"
        raise NoCheckpoint(f"{wrong}; there are: {there}.")
    return lab, parts[number]


def _keep(paths: Mapping[Path, str], lab: Exercise, root: Path) -> Path:
    """Copy what is there into a folder that is new, so that no copy ever replaces another."""
    for number in count(1):
        folder = root / KEPT / lab.track / lab.folder.name / str(number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        break
    for path in filter(Path.exists, paths):
        copy = folder / path.relative_to(lab.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return folder


def _with_what_is_left(answer: str, now: str, last_todo: int) -> Iterator[str]:
    """The answer's text, but as it is now those functions whose TODOs are all of later parts."""
    try:
        left = {
            name: text
            for name, text in _functions(now).items()
            if (todos := [int(number) for number in TODO.findall(text[2])])
            and min(todos) > last_todo
        }
    except (SyntaxError, ValueError):
        left = {}  # it is kept, but nothing can be taken from it
    lines = answer.splitlines(keepends=True)
    position = 0
    for name, (first, last, _) in _functions(answer).items():
        if name in left:
            yield from lines[position:first]
            yield left[name][2]
            position = last
    yield from lines[position:]


def _functions(source: str) -> dict[str, tuple[int, int, str]]:
    """Of each function and method: the line before its first, its last, and its text."""
    lines = source.splitlines(keepends=True)
    found = {}

    def look(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{within}{node.name}.")
            elif isinstance(node, Function):
                first = min([node.lineno, *(part.lineno for part in node.decorator_list)]) - 1
                last = node.end_lineno or node.lineno
                found[within + node.name] = (first, last, "".join(lines[first:last]))

    look(ast.parse(source).body, "")
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


def main(arguments: list[str]) -> int:
    name, number = (*arguments, "", "")[:2]
    try:
        print(catch_up(name, number))
    except NoCheckpoint as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
