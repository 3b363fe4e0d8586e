"""Answers that resemble each other: a hint for a person to look, never a verdict.

Winnowing, as in Schleimer, Wilkerson and Aiken (2003), the method behind MOSS: hashes of short runs
of tokens, thinned out so that any long enough run that two texts share is found. What the starter
or the course has, and what most of the class has, tells nothing.
"""

import keyword
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

from grader.catalogue import Exercise, Strict
from grader.workspace import take_in

RUN = 12
"""Tokens that are compared at a time."""

WINDOW = 6
"""Of so many runs in a row one is kept."""

ENOUGH = 12
"""Fewer fingerprints than this say nothing."""

COMMON = 0.5
SMALL_CLASS = 8
TOKEN = re.compile(r"#[^\n]*|\"\"\"|'''|[^\W\d]\w*|\d[\w.]*|[^\s\w]", re.ASCII)
KEPT_WORDS = frozenset(keyword.kwlist)


class Similar(Strict):
    exercise: str
    students: tuple[str, ...]
    percent: float
    """Of the fingerprints of the shorter one, at least, that the other one has, too."""


def fingerprints(files: Mapping[str, bytes]) -> frozenset[int]:
    """The same for other names, other spacing, other comments."""
    found: set[int] = set()
    for data in files.values():
        tokens = [_shape(token) for token in TOKEN.findall(data.decode(errors="replace"))]
        words = [token for token in tokens if token]
        runs = [
            zlib.crc32(" ".join(words[at : at + RUN]).encode())
            for at in range(len(words) - RUN + 1)
        ]
        found.update(min(runs[at : at + WINDOW]) for at in range(max(len(runs) - WINDOW + 1, 0)))
    return frozenset(found)


def _shape(token: str) -> str:
    if token.startswith("#"):
        return ""
    if token[0].isalpha() or token[0] == "_":
        return token if token in KEPT_WORDS else "n"
    return "0" if token[0].isdigit() else token


def given(exercise: Exercise) -> frozenset[int]:
    """The starter's, and of a lab the course's own files, which anybody may read."""
    references = [exercise.root / file.reference for file in exercise.files if file.reference]
    course = {str(path): path.read_bytes() for path in references if path.is_file()}
    return fingerprints(take_in(exercise, exercise.folder).files) | fingerprints(course)


def similar(
    exercise: Exercise, answers: Mapping[str, Mapping[str, bytes]], from_percent: float
) -> list[Similar]:
    """Groups of students, the most alike first."""
    known = given(exercise)
    prints = {name: fingerprints(files) - known for name, files in answers.items()}
    if len(prints) >= SMALL_CLASS:
        often = Counter(each for found in prints.values() for each in found)
        common = {each for each, count in often.items() if count > COMMON * len(prints)}
        prints = {name: found - common for name, found in prints.items()}
    prints = {name: found for name, found in prints.items() if len(found) >= ENOUGH}
    pairs = {}
    for one, other in combinations(sorted(prints), 2):
        shared = len(prints[one] & prints[other])
        percent = 100 * shared / min(len(prints[one]), len(prints[other]))
        if percent >= from_percent and shared >= ENOUGH:
            pairs[one, other] = percent
    return _groups(exercise, pairs)


def _groups(exercise: Exercise, pairs: Mapping[tuple[str, str], float]) -> list[Similar]:
    """Whoever is like somebody in a group is in it."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for one, other in pairs:
        leader[find(one)] = find(other)
    members: defaultdict[str, set[str]] = defaultdict(set)
    least: dict[str, float] = {}
    for (one, other), percent in pairs.items():
        members[find(one)] |= {one, other}
        least[find(one)] = min(percent, least.get(find(one), 100.0))
    groups: Iterable[Similar] = (
        Similar(
            exercise=exercise.id, students=tuple(sorted(members[key])), percent=round(least[key])
        )
        for key in members
    )
    return sorted(groups, key=lambda group: (-group.percent, group.students))
