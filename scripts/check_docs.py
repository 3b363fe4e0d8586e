"""Check what the docs say against the repository: links, anchors, snippets, targets, paths.

Part of `make check`. What a reader could type is also run, by `tests/docs/test_commands.py`.
"""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from scripts.markdown import Command, Fence, Page, read_page

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    problems = list(find_problems(ROOT))
    for problem in problems:
        print(problem)
    found = "1 problem" if len(problems) == 1 else f"{len(problems) or 'no'} problems"
    print(f"docs: {found} in {len(pages_of(ROOT))} pages")
    return 1 if problems else 0


def pages_of(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def find_problems(root: Path) -> Iterator[str]:
    for path in pages_of(root):
        page = read_page(path)
        for line, problem in [*_bad_links(page, root), *_bad_fences(page, root)]:
            yield f"{path.relative_to(root)}:{line}: {problem}"


def _bad_links(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    for link in page.links:
        url = urlsplit(link.target)
        if url.scheme or url.netloc:
            continue
        target = (page.path.parent / unquote(url.path)).resolve() if url.path else page.path
        if not target.is_relative_to(root) or not target.exists():
            yield link.line, f"{link.target} leads nowhere"
        elif url.fragment and target.suffix == ".md" and not _has_anchor(target, url.fragment):
            yield link.line, f"{link.target} names no heading there"


def _has_anchor(path: Path, fragment: str) -> bool:
    return unquote(fragment) in read_page(path).anchors


def _bad_fences(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    for fence in page.fences:
        if fence.illustration:
            continue
        if fence.language == "python":
            yield from _bad_python(fence, root)
        for command in fence.commands():
            for problem in _bad_command(command, root, page.path.parent):
                yield command.line, problem


def _bad_python(fence: Fence, root: Path) -> Iterator[tuple[int, str]]:
    try:
        compile(fence.text, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as exc:
        yield fence.line + (exc.lineno or 1) - 1, f"this Python does not compile: {exc.msg}"
    if fence.excerpt_of:
        source = root / fence.excerpt_of
        if not source.is_file():
            yield fence.line, f"there is no {fence.excerpt_of}"
        elif not is_excerpt(fence.text.partition("\n")[2], source.read_text(encoding="utf-8")):
            yield fence.line, f"{fence.excerpt_of} reads differently"


def is_excerpt(quote: str, source: str) -> bool:
    """Whether `source` has these lines in this order; indentation may differ, `...` skips some."""
    text, position = _flat(source), 0
    for part in re.split(r"^\s*\.\.\.\n", quote, flags=re.MULTILINE):
        position = text.find(_flat(part), position)
        if position < 0:
            return False
    return True


def _flat(text: str) -> str:
    return "\n".join(["", *(line.strip() for line in text.strip().splitlines()), ""])


def _bad_command(command: Command, root: Path, folder: Path) -> Iterator[str]:
    try:
        words = _words(command.text)
    except ValueError as exc:
        yield f"a shell cannot read this: {exc}"
        return
    for target in _make_targets(words) - makefile_targets(root):
        yield f"the Makefile has no target {target}"
    entered = [after for word, after in pairwise(words) if word == "cd"]
    for path in [*entered, *filter(_looks_like_a_path, words)]:
        if not any((base / path).exists() for base in [root, folder, *map(root.joinpath, entered)]):
            yield f"there is no {path}"


def _words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""  # it would cut a URL at its fragment
    return list(lexer)


def _make_targets(words: list[str]) -> set[str]:
    targets: set[str] = set()
    in_make = False
    for word in words:
        if in_make and re.fullmatch(r"[a-z][\w-]*", word):
            targets.add(word)
        in_make = word == "make" or (in_make and not re.fullmatch(r"[();<>|&]+", word))
    return targets


def makefile_targets(root: Path) -> set[str]:
    makefile = root / "Makefile"
    text = makefile.read_text(encoding="utf-8") if makefile.exists() else ""
    return set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))


def _looks_like_a_path(word: str) -> bool:
    """Files that a reader makes (`.venv/…`, absolute, under a variable) are not ours to promise."""
    return re.fullmatch(r"(?!\.venv/)[\w.][\w.-]*(/[\w.-]+)+/?", word) is not None


if __name__ == "__main__":
    sys.exit(main())
