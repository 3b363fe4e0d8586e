"""The trainer's pages are followed from the top, in a copy of their own."""

import pytest

from scripts.markdown import read_page
from scripts.walkthrough import Walkthrough
from tests.docs.readers_copy import copied_for_a_reader, needs_answers

TRAINERS = ("trainer-guide.md", "exercises/AUTHORING.md", "docs/grading.md")


@needs_answers
@pytest.mark.parametrize("name", TRAINERS)
def test_trainers_page_works_as_written(name: str) -> None:
    """What a trainer or an author types works, and prints what the page says."""
    with copied_for_a_reader() as copy, Walkthrough(copy) as reader:
        reader.read(read_page(copy / name))
