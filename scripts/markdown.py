"""A Markdown page as the checks see it: fenced blocks, links, and the anchors links may name."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

SHELLS = frozenset({"bash", "console", "sh", "shell", "zsh"})
HTML_LINK = re.compile(r"""\b(?:href|src)=["']([^"']+)""")
HTML_ANCHOR = re.compile(r"""\b(?:id|name)=["']([^"']+)""")
EXCERPT = re.compile(r"# (\S+/\S+\.py)\n")


@dataclass(frozen=True)
class Command:
    line: int
    text: str
    output: str


@dataclass(frozen=True)
class Fence:
    line: int
    language: str
    illustration: bool
    text: str

    @property
    def excerpt_of(self) -> str | None:
        """The file that this block quotes, when its first line is a comment naming one."""
        match = EXCERPT.match(self.text)
        return match[1] if match else None

    def commands(self) -> Iterator[Command]:
        """What a reader would type: in a console block after `$ `, in a shell block every line."""
        if self.language not in SHELLS:
            return
        prompt = "$ " if self.language == "console" else ""
        lines = deque(enumerate(self.text.splitlines(), self.line))
        while lines:
            number, text = lines.popleft()
            if not text.startswith(prompt) or not text.strip():
                continue
            while text.endswith("\\") and lines:
                text += "\n" + lines.popleft()[1]
            output = ""
            while prompt and lines and not lines[0][1].startswith(prompt):
                output += lines.popleft()[1] + "\n"
            yield Command(number, text.removeprefix(prompt), output)


@dataclass(frozen=True)
class Link:
    line: int
    target: str


@dataclass(frozen=True)
class Page:
    path: Path
    fences: tuple[Fence, ...]
    links: tuple[Link, ...]
    anchors: frozenset[str]


def read_page(path: Path) -> Page:
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    return Page(path, tuple(_fences(tokens)), tuple(_links(tokens)), frozenset(_anchors(tokens)))


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 1


def _fences(tokens: list[Token]) -> Iterator[Fence]:
    for token in tokens:
        if token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            yield Fence(_line(token) + 1, language, rest == "illustration", token.content)


def _links(tokens: list[Token]) -> Iterator[Link]:
    for token in tokens:
        for part in (token, *(token.children or ())):
            for target in (part.attrGet("href"), part.attrGet("src")):
                if target:
                    yield Link(_line(token), str(target))
            if part.type in {"html_block", "html_inline"}:
                for target in HTML_LINK.findall(part.content):
                    yield Link(_line(token), target)


def _anchors(tokens: list[Token]) -> Iterator[str]:
    """GitHub's: lower case, punctuation dropped, spaces to hyphens, repeats numbered."""
    seen: dict[str, int] = {}
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(part.content for part in inline.children or () if not part.nesting)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            yield f"{slug}-{seen[slug]}" if slug in seen else slug
            seen[slug] = seen.get(slug, 0) + 1
    for token in tokens:
        for part in (token, *(token.children or ())):
            if part.type in {"html_block", "html_inline"}:
                yield from HTML_ANCHOR.findall(part.content)
