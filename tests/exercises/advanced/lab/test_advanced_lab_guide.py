"""The lab's guide keeps to what the lab is: its commands, its minutes, its points."""

import re
from dataclasses import replace

from grader.catalogue import find
from scripts.check_docs import ROOT
from scripts.markdown import read_page
from scripts.walkthrough import Walkthrough

LAB = find("advanced/lab")
GUIDE = LAB.folder / "README.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def test_the_finished_service_prints_what_the_guide_shows() -> None:
    """Whoever has built everything sees, step by step, what the guide says is to be seen."""
    page = read_page(GUIDE)
    steps = tuple(f for f in page.fences if f.text.startswith(("$ curl", "$ echo")))
    assert len(steps) == 6
    with Walkthrough(ROOT, default_server="make advanced") as reader:
        reader.read(replace(page, fences=steps))


def test_the_steps_take_the_minutes_of_the_lab() -> None:
    """The minutes of the steps add up."""
    minutes = re.findall(r"^### .*, (\d+) minutes\)$", TEXT, re.MULTILINE)
    assert sum(map(int, minutes)) == LAB.minutes


def test_the_guide_tells_the_points() -> None:
    """Every check is in the table, in its order, with its points."""
    rows = re.findall(r"^\|[^|]*\| (\w+) \| (\d+) \|$", TEXT, re.MULTILINE)
    assert rows == [(check.id, str(check.points)) for check in LAB.checks]
