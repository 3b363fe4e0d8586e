"""Every command and snippet that a page shows is run, as a learner would run it."""

from pathlib import Path

import pytest

from scripts.check_docs import ROOT
from scripts.markdown import SHELLS, Page, read_page
from scripts.walkthrough import Walkthrough

WALKED = ("*.md", "*/README.md", "docs/*.md")
ELSEWHERE = ("trainer-guide.md", "docs/grading.md")  # followed in a copy, by test_trainers_pages.py


def can_be_followed(page: Page) -> bool:
    return any(fence.language in {"python", *SHELLS} for fence in page.fences)


PAGES = sorted(
    path
    for glob in WALKED
    for path in ROOT.glob(glob)
    if str(path.relative_to(ROOT)) not in ELSEWHERE and can_be_followed(read_page(path))
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_works_as_written(path: Path) -> None:
    """Typing a page from top to bottom works, and prints what the page says."""
    with Walkthrough(ROOT) as reader:
        reader.read(read_page(path))
