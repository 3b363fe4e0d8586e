"""What pages take from the code is what the code says; and a drawing has its words."""

import re

import pytest

from scripts import generate_docs
from scripts.check_docs import ROOT, pages_of

PAGES = {str(path.relative_to(ROOT)): (path, text) for path, text in generate_docs.generated()}


@pytest.mark.parametrize("name", PAGES)
def test_page_says_what_the_code_says(name: str) -> None:
    """`make docs` would change nothing."""
    path, text = PAGES[name]
    assert path.read_text(encoding="utf-8") == text, "make docs writes it anew"


@pytest.mark.parametrize("track", ["medium", "advanced"])
def test_guides_draw_the_graph_and_the_way(track: str) -> None:
    """Each track's guide has both drawings, from the code."""
    _, text = PAGES[f"{track}/README.md"]
    assert text.count("```mermaid") == 2
    for node in ("supervisor", "researcher", "analyst", "/api/v1/query/stream"):
        assert node in text


@pytest.mark.parametrize("track", ["medium", "advanced"])
def test_a_way_ends_where_the_service_goes(track: str) -> None:
    """A list asks the store alone; only a turn gets to the model."""
    _, text = PAGES[f"{track}/README.md"]
    for method, used in (("list_sessions", "sessions"), ("process_query", "turns")):
        assert f'--> {method}["AgentService.{method}"] --> {used}_[{used}]\n' in text
        assert f"`AgentService.{method}` | {used} |\n" in text


def test_every_drawing_has_its_words() -> None:
    """Who cannot see a drawing finds the same in a sentence or a table below it."""
    for path in pages_of(ROOT):
        text = path.read_text(encoding="utf-8")
        for drawing in re.finditer(r"```mermaid\n.*?```\n", text, re.DOTALL):
            assert text[drawing.end() :].startswith("\n*In words:* "), path
