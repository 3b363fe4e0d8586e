"""YAML that somebody hands in is read as Compose reads it, and cannot keep the judge busy."""

import time

import pytest

from grader.judge.documents import Unreadable
from grader.judge.yaml_documents import parse_yaml


def grown(first: str, each: str) -> str:
    """Eleven lines of aliases, each of which stands for ten of the line before."""
    lines = [first]
    for number in range(1, 12):
        aliases = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(each.format(number=number, aliases=aliases))
    return "\n".join(lines)


def test_words_are_what_they_are_to_compose() -> None:
    """`yes`, times and dates are text, and so is every key; anchors and merges are followed."""
    said = parse_yaml(
        "a: yes\nb: 22:22\nc: 2026-01-31\n8080: x\nd: &d {n: 1, m: 2}\ne: {<<: *d, n: 3}\n", "x"
    )
    assert said == {
        "a": "yes",
        "b": "22:22",
        "c": "2026-01-31",
        "8080": "x",
        "d": {"n": 1, "m": 2},
        "e": {"n": 3, "m": 2},
    }


def test_values_have_their_types() -> None:
    """Numbers, switches and nothing are no text."""
    said = parse_yaml("[1, -2, 1.5, true, null, ~, 0x10, 0o17, '1']", "x")
    assert said == [1, -2, 1.5, True, None, None, 16, 15, "1"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (grown("a0: &a0 [x]", "a{number}: &a{number} [{aliases}]"), "aliases written out"),
        (grown("a0: &a0 {k: x}", "a{number}: &a{number} {{<<: [{aliases}]}}"), "written out"),
        ("a: &a [*a]", "part of"),
        ("a: &a\n  <<: *a", "part of"),
        ("{a: " * 60 + "}" * 60, "levels"),
        ("[" * 5000, "recursion"),
        ("a: 1\na: 2", "line 2: the key a occurs twice"),
        ("? [a]\n: 1", "key"),
        ("a: !!python/object/apply:os.system [id]", "tag"),
        ("a: {b: c", "line 1"),
        ("---\na: 1\n---\nb: 2", "another document"),
        ("\x00", "unacceptable"),
        ("a: !!timestamp 2020-13-99", "month"),
    ],
    ids=lambda value: value[:16],
)
def test_what_is_no_document_is_refused(text: str, why: str) -> None:
    """In a sentence, and soon: not after the memory is full."""
    started = time.process_time()
    with pytest.raises(Unreadable, match=why):
        parse_yaml(text, "compose.yaml")
    assert time.process_time() - started < 5
