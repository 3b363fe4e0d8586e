"""Answers that resemble each other are pointed out; honest ones to the same task are not."""

import re

import pytest

from grader.catalogue import find
from grader.rubric import Rubric
from grader.similar import fingerprints, similar
from grader.verify import cases, load_matrix
from grader.workspace import solution_files, take_in

EXERCISE = find("medium/ex04")
FILE = EXERCISE.files[0].path
ANSWERS = {case.name: case.intake.files[FILE] for case in cases(EXERCISE, load_matrix(EXERCISE))}
SOLUTION, STARTER = ANSWERS["solution"], ANSWERS["starter"]
FROM = Rubric().similar_from


def groups(**answers: bytes) -> list[tuple[str, ...]]:
    files = {name: {FILE: data} for name, data in answers.items()}
    return [group.students for group in similar(EXERCISE, files, FROM)]


def renamed(data: bytes) -> bytes:
    """Other names, comments and spacing."""
    text = re.sub(r"\b(exc|request|response|error|app|handler)\b", r"my_\1", data.decode())
    text = "\n# mine\n\n".join(text.split("\n\n"))
    return text.replace("(\n", "(").replace("    ", "  ").encode()


def test_a_disguised_copy_is_found() -> None:
    """Whoever renames, reformats and comments is still alike; who wrote another design is not."""
    assert renamed(SOLUTION) != SOLUTION
    found = groups(alice=SOLUTION, bob=renamed(SOLUTION), carol=ANSWERS["notes"])
    assert found == [("alice", "bob")]


def test_half_a_copy_is_found() -> None:
    """A part of somebody's answer in another one's is alike, as seen from the shorter."""
    half = SOLUTION[: len(SOLUTION) // 2]
    assert groups(alice=SOLUTION, bob=ANSWERS["notes"] + half, carol=half) == [
        ("alice", "bob", "carol")
    ]


def test_starters_are_everybodys() -> None:
    """What the course gave out tells nothing, with a few words added or not."""
    assert groups(alice=STARTER, bob=STARTER + b"\nx = 1\n", carol=b"") == []


def test_what_most_have_tells_nothing() -> None:
    """In a class, what more than half of it wrote alike is the task's own shape."""
    same = {f"s{number}": SOLUTION for number in range(9)}
    assert groups(**same) == []
    assert groups(**dict(list(same.items())[:3])) != []


def test_a_lab_is_open_book() -> None:
    """Copying the course's own files is allowed, and told elsewhere."""
    lab = find("medium/lab")
    assert similar(lab, {"alice": solution_files(lab), "bob": solution_files(lab)}, FROM) == []
    assert similar(lab, {"alice": take_in(lab, lab.folder).files, "bob": {}}, FROM) == []


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe" * 5000, b"#" * 250_000, b"(" * 250_000, b"\0" * 99]
)
def test_odd_files_are_read_in_no_time(data: bytes) -> None:
    """No file makes it slow, or fails."""
    assert isinstance(fingerprints({FILE: data}), frozenset)
