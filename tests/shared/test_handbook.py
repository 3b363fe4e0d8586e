"""The handbook's pages: each short, complete, correct as code, and findable."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

HANDBOOK = Path(__file__).parents[2] / "shared" / "handbook"
PAGES = sorted(HANDBOOK.glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BELITTLING = re.compile(r"\b(just|simply|easy|easily|obviously)\b", flags=re.IGNORECASE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def python_in(page: Path) -> list[str]:
    return [code for language, code in FENCE.findall(text_of(page)) if language == "python"]


def test_there_are_pages() -> None:
    """The handbook holds two dozen pages under stable, lower-case names."""
    assert len(PAGES) >= 16
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*\.md", page.name) for page in PAGES)


@every_page
def test_opens_with_title_and_summary(page: Path) -> None:
    """A page opens with its title and a summary of two to four sentences."""
    title, gap, rest = text_of(page).split("\n", 2)
    assert re.fullmatch(r"# [A-Z].{2,50}", title)
    assert gap == ""
    summary = rest.split("\n\n")[0]
    assert 2 <= len(re.findall(r"[.?!](?=\s|$)", summary)) <= 4
    assert 30 <= len(summary.split()) <= 90


@every_page
def test_has_one_title_and_some_sections(page: Path) -> None:
    """Below the title stand two to six sections, none of them empty or named twice."""
    prose = prose_of(page)
    sections = re.findall(r"^## (.+)$", prose, flags=re.MULTILINE)
    assert len(re.findall(r"^#", prose, flags=re.MULTILINE)) == 1 + len(sections)
    assert 2 <= len(sections) == len(set(sections)) <= 6
    assert not re.search(r"^## .+\s+(## |\Z)", text_of(page), flags=re.MULTILINE)


def test_titles_differ() -> None:
    """No two pages have one title."""
    assert len({text_of(page).split("\n")[0] for page in PAGES}) == len(PAGES)


@every_page
def test_is_short(page: Path) -> None:
    """A page has 120 to 300 words, in lines of at most 100 characters."""
    assert 120 <= len(text_of(page).split()) <= 300
    assert max(len(line) for line in text_of(page).splitlines()) <= 100


@every_page
def test_fences_are_closed_and_hold_no_heading(page: Path) -> None:
    """Code blocks end, name their language, and hold no line that would split a passage."""
    blocks = FENCE.findall(text_of(page))
    assert len(re.findall(r"^```", text_of(page), flags=re.MULTILINE)) == 2 * len(blocks)
    for language, code in blocks:
        assert language in {"python", "text", "dockerfile"}
        assert not re.search(r"^## ", code, flags=re.MULTILINE)


@every_page
def test_code_compiles(page: Path) -> None:
    """Every Python block compiles."""
    for code in python_in(page):
        compile(code, page.name, "exec", dont_inherit=True)


@every_page
def test_imports_exist(page: Path) -> None:
    """Everything that a Python block imports exists in the installed versions."""
    for node in (node for code in python_in(page) for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.Import):
            imports = [(name.name, "__name__") for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports = [(node.module, name.name) for name in node.names]
        else:
            continue
        for module, name in imports:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                pytest.skip(f"{module} belongs to the other track and is not installed")
            assert hasattr(importlib.import_module(module), name)


@every_page
def test_does_not_belittle(page: Path) -> None:
    """What is hard for a reader is never called light work."""
    assert BELITTLING.findall(text_of(page)) == []


@every_page
def test_links_resolve(page: Path) -> None:
    """A link inside the handbook leads to a file, and a page that is named exists."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose_of(page)):
        assert target.startswith("https://") or (page.parent / target).is_file()
    for name in re.findall(r"`([a-z-]+\.md)`", prose_of(page)):
        assert (HANDBOOK / name).is_file()
