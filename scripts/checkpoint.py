"""`make checkpoint N=3`: catch up in a lab, with the course's own answer to its first parts.

A lab's `exercise.toml` says with which part each file begins, and its README which TODOs a part
has. Whatever belongs to the parts up to N becomes the course's own, the rest is the starter again;
N=0 is the whole starter. What was there before is kept in `kept/`.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from grader.catalogue import ROOT, Exercise, GradingError, find
from grader.starters import starter

PART = re.compile(
    r"^### (\d+)\. (.+) \(TODO (\d+)(?:(?: to | and )(\d+))?, (\d+) minutes\)$", re.MULTILINE
)
TODO = re.compile(r"\bTODO (\d+)\b")
KEPT = "kept"
START = "0"

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
    where = f"at the end of part {part.number} ({part.title})" if part else "as it was given to you"
    fresh = {}
    for path, text in _files(lab, part, root).items():
        target = lab.folder / path
        if not target.exists() or target.read_bytes() != text.encode():
            fresh[target] = text
    if not fresh:
        return f"{lab.short} is {where} already; nothing was changed."
    kept = _keep(fresh, lab, root)
    for target, text in fresh.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    names = ", ".join(str(target.relative_to(lab.folder)) for target in fresh)
    copies, home = kept.relative_to(root), lab.folder.relative_to(root)
    whose = "Now the course's" if part else "The starter's again"
    return (
        f"{lab.short} is {where}. {whose}: {names}."
        f" What you had is in {copies}; to go back: cp -R {copies}/. {home}"
    )


def _files(lab: Exercise, part: Part | None, root: Path) -> dict[str, str]:
    """What a student who follows the README has at the end of `part`, or before the first."""
    given = {path: data.decode() for path, data in starter(lab).items()}
    if part is None:
        return given
    files = {}
    for file in lab.files:
        files[file.path] = given[file.path]
        if file.reference and file.step is not None and file.step <= part.number:
            answer = (root / file.reference).read_text(encoding="utf-8")
            if file.path.endswith(".py"):
                answer = "".join(_with_what_is_left(answer, given[file.path], part.last_todo))
            files[file.path] = answer
    return files


def _chosen(name: str, number: str, root: Path) -> tuple[Exercise, Part | None]:
    """The lab, and its part; none is before the first."""
    try:
        lab = find(name, root)
    except GradingError as exc:
        raise NoCheckpoint(str(exc)) from None
    if not any(file.step for file in lab.files):
        raise NoCheckpoint(f"{lab.short} has no checkpoints; labs have, such as EX=medium/lab.")
    parts = {str(part.number): part for part in parts_of(lab)}
    if number != START and number not in parts:
        there = ", ".join(f"{part.number} ({part.title})" for part in parts.values())
        wrong = f"N={number} is no part of {lab.short}" if number else "Say which part, as in N=3"
        raise NoCheckpoint(f"{wrong}; there are: {START} (the starter), {there}.")
    return lab, parts.get(number)


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


def _with_what_is_left(answer: str, given: str, last_todo: int) -> Iterator[str]:
    """The answer's text, but as it is given those functions whose TODOs are all of later parts."""
    left = {
        name: text
        for name, (_, _, text) in _functions(given).items()
        if (todos := [int(number) for number in TODO.findall(text)]) and min(todos) > last_todo
    }
    lines = answer.splitlines(keepends=True)
    position = 0
    for name, (first, last, _) in _functions(answer).items():
        if name in left:
            yield from lines[position:first]
            yield left[name]
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
