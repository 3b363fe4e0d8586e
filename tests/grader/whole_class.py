"""A whole class in one `make grade`: killed in the middle, resumed, and exactly as expected.

`make verify-class`; it takes minutes, so `make test` leaves it alone. CLASS_OF=200 makes it larger,
CLASS_HAS=everything adds the attacks that take all the time they are given.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, sync_playwright

from grader.catalogue import ROOT
from grader.journal import NAME
from grader.runner import opened
from tests.grader.clusters import kept, records, two_workers
from tests.grader.synthetic import Expected, differences, make_class, with_a_matrix

STUDENTS = int(os.environ.get("CLASS_OF", "40"))
EVERYTHING = os.environ.get("CLASS_HAS") == "everything"
SEED = 1
AT_ONCE = 2
"""Submissions on each worker of the cluster."""

CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    not (ROOT / "solutions").exists(), reason="a kit has no answers to make a class of"
)


@dataclass
class Graded:
    expected: Sequence[Expected]
    folder: Path
    out: Path
    before_the_kill: int
    second: str
    """What the run that went on said."""


def grade(folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, out, *more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=7200,
        check=False,
    )


def command(folder: Path, out: Path, *more: str) -> list[str]:
    words = ["grade", "--submissions", str(folder), "--out", str(out), *more]
    return kept("grader", *words)


def entries(out: Path) -> list[bytes]:
    try:
        return (out / NAME).read_bytes().splitlines()[1:]
    except FileNotFoundError:
        return []


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """Graded with one kill in the middle, after which nothing may be left running."""
    folder = tmp_path_factory.mktemp("class") / "submissions"
    out = folder.with_name("reports")
    folder.mkdir()
    with opened() as grader:
        grader.ready()
        behind_walls = grader.tier == 1
    expected = make_class(
        folder, with_a_matrix(), STUDENTS, SEED, quick=not EVERYTHING, harmless=not behind_walls
    )
    first = subprocess.Popen(
        command(folder, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(entries(out)) < STUDENTS // 3 and first.poll() is None:
        time.sleep(0.1)
    assert first.poll() is None, "it was over before it could be killed"
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed_at = len(entries(out))
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    second = grade(folder, out)
    assert second.returncode == 0, second.stdout + second.stderr
    return Graded(expected, folder, out, killed_at, second.stdout)


def test_everybody_gets_what_is_theirs(graded: Graded) -> None:
    """Score, failing checks and misconception of each are exactly those expected."""
    assert list(differences(graded.expected, graded.out)) == []


def test_nobody_is_graded_twice(graded: Graded) -> None:
    """The second run takes over what the first one had, and grades the rest."""
    assert f"{graded.before_the_kill} of " in graded.second.splitlines()[0]
    keys = [re.match(rb'\{"key":"(\w+)"', line) for line in entries(graded.out)]
    found = [key[1] for key in keys if key]
    retried = graded.second.count("could not tell")
    assert len(found) - len(set(found)) <= retried


def test_nobody_waits_for_one(graded: Graded) -> None:
    """No submission took longer than its exercise allows, and what is added for being late."""
    told = re.findall(r"(\d+\.\d) s(?:  |$)", graded.second, re.MULTILINE)
    longest = max(exercise.seconds for exercise in with_a_matrix())
    assert max(map(float, told)) < longest + 30


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_twice_is_the_same(graded: Graded) -> None:
    """Once more: nothing is graded, and every file has the same bytes."""
    before = tree(graded.out)
    third = grade(graded.folder, graded.out)
    assert third.returncode == 0
    assert "[" not in third.stdout, "something was graded again"
    assert tree(graded.out) == before
    assert len([name for name in before if name.startswith("students/")]) == STUDENTS


def test_a_cluster_says_the_same(graded: Graded, tmp_path: Path) -> None:
    """Graded by two workers, under the same seed: each record is the same bytes."""
    seed = str(json.loads((graded.out / "grades.json").read_text())["seed"])
    with two_workers(tmp_path, AT_ONCE) as address:
        there = grade(graded.folder, tmp_path / "out", "--seed", seed, "--scheduler", address)
    assert there.returncode == 0, there.stdout + there.stderr
    assert records(tmp_path / "out") == records(graded.out)


# --- the pages, in a browser


@pytest.fixture(scope="module")
def pages(graded: Graded) -> list[Path]:
    """The class's, and those of one student for each kind of result."""
    kinds = {
        (each.state, each.earned in (0, 100), each.misconception is None, each.exercise[:3]): each
        for each in graded.expected
    }
    students = [graded.out / "students" / f"{each.student}.html" for each in kinds.values()]
    return [graded.out / "index.html", *students]


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium here")
@pytest.mark.parametrize(("width", "colours"), [(380, "dark"), (380, "light"), (1280, "light")])
def test_pages_are_for_everybody(
    graded: Graded, pages: list[Path], width: int, colours: Literal["dark", "light"]
) -> None:
    """No page has an accessibility fault, is wider than a phone, or asks for anything else."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=colours)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for path in pages:
            page.goto(path.as_uri())
            assert faults(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.emulate_media(media="print")
        page.goto(pages[0].as_uri())
        pdf = page.pdf(format="A4")
        browser.close()
    assert pdf.startswith(b"%PDF")
    assert {url for url in asked if not url.startswith("file:")} == set()


def faults(page: Page) -> list[str]:
    found = Axe().run(page)
    return [violation["id"] for violation in found.response["violations"]]
