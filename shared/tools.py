"""The agent's two tools: ranked search over the handbook, and exact arithmetic without `eval`.

Path of a request: graph > tools. A tool here never raises: whatever goes wrong is told in the text
that it returns, because text reaches the model whichever way the tool was called (a `ToolException`
ends the run unless every caller handles it), and a model that reads the reason can try again.
"""

import math
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

from langchain_core.tools import tool

from shared.arithmetic import CannotCalculate, as_text, evaluate

HANDBOOK = Path(__file__).parent / "handbook"
CANNOT = "Cannot calculate: "
WRONG_ARGUMENTS = "The arguments are wrong; see the tool's description."
NOT_FOUND = "The handbook has nothing about that; other words may find more."
SUMMARY = "Summary"  # the heading of what stands above a page's first section
SUMMARY_BOOST = 1.3  # it answers most questions of the kind "how do I ...?"
K1 = 1.2  # BM25: the higher, the longer repetition of a word goes on counting
B = 0.75  # BM25: how far a long passage needs more of a word, from 0 to 1
MAX_PASSAGES = 3
MAX_QUERY = 2000  # characters that are looked at, as many as a user may send

_WORD = re.compile(r"(?!\d{1,2}\b)[^\W_]+")  # small numbers say nothing about a subject
_SUFFIX = re.compile(r"^(\w{3,}?)(?:ations?|ated|ates?|ating|ings?|ly|ers?|ed|es|e|s)$")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a about also an and any are as at be been but by can could did do does explain for from "
        "get had has have how i if in into is it its make may me my need no not of on or our so "
        "please should some tell than that the their them then there these they this to up us use "
        "used using want was way we were what when where which who why will with would you your"
    )
)


class Passage(NamedTuple):
    source: str  # the page's file name: what an answer cites
    heading: str
    text: str


@tool
def search_handbook(
    query: Annotated[str, "Key words or a question, such as 'stream tokens with FastAPI'"],
) -> str:
    """Search the course handbook on building and deploying AI agents as web services.

    Covers FastAPI, async, streaming, sessions, LangGraph, tools, errors, validation, timeouts, JWT,
    passwords, caching, rate limits, metrics, logs, health, containers, configuration and testing.
    Returns up to three passages, best first, each under a line "[page.md] Title > Section"; cite
    the page that you used. Returns one sentence if the handbook has nothing on the subject.
    """
    scores: defaultdict[Passage, float] = defaultdict(float)
    for word in dict.fromkeys(_words(query[:MAX_QUERY])):  # a set's order would differ between runs
        for passage, weight in _index().get(word, {}).items():
            scores[passage] += weight
    best = sorted(scores, key=lambda passage: (-scores[passage], passage))[:MAX_PASSAGES]
    return "\n\n".join(f"[{p.source}] {p.heading}\n{p.text}" for p in best) or NOT_FOUND


@tool
def calculate(
    expression: Annotated[str, "Numbers and operators, such as '17.5% of 2480 - 12'"],
) -> str:
    """Calculate an arithmetic expression exactly. Use it for every calculation, however small.

    Understands + - * / // (whole quotient) % (remainder) ** (power, also ^), parentheses, decimals
    and thousands separators (2,480). A % that no number follows means percent, so 17.5% is 0.175,
    and "of" means times: "17.5% of 2480 - 12" is 422. To add 10% to 50, write 50 * (1 + 10%).
    Returns the exact number, or a fraction with its decimal value: "1/3 (about 0.333333)". What it
    cannot calculate it answers with "Cannot calculate: " and the reason.
    """
    try:
        return as_text(evaluate(expression))
    except CannotCalculate as exc:
        return f"{CANNOT}{exc}."


def failed(result: str) -> bool:
    """Whether a tool could not do what it was asked to. Finding nothing is a result."""
    return result == WRONG_ARGUMENTS or result.startswith(CANNOT)


@cache  # read at the first search; two first searches at once build the same index twice, no harm
def _index() -> dict[str, dict[Passage, float]]:
    """For each word the passages that hold it, weighted by BM25."""
    counts = {p: Counter(_words(f"{p.heading} {p.heading} {p.text}")) for p in _passages()}
    average = sum(count.total() for count in counts.values()) / len(counts)
    passages_with = Counter(word for count in counts.values() for word in count)
    index: dict[str, dict[Passage, float]] = defaultdict(dict)
    for passage, count in counts.items():
        boost = SUMMARY_BOOST if passage.heading.endswith(SUMMARY) else 1
        norm = K1 * (1 - B + B * count.total() / average)
        for word, n in count.items():
            rarity = math.log(
                1 + (len(counts) - passages_with[word] + 0.5) / (passages_with[word] + 0.5)
            )
            index[word][passage] = boost * rarity * n * (K1 + 1) / (n + norm)
    return dict(index)


def _passages() -> list[Passage]:
    """Every section of every page; what stands before a page's first section is its summary."""
    passages = []
    for page in sorted(HANDBOOK.glob("*.md")):
        top, *sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        title, _, summary = top.removeprefix("# ").partition("\n")
        for section in [f"{SUMMARY}\n{summary}", *sections]:
            name, _, text = section.partition("\n")
            passages.append(Passage(page.name, f"{title} > {name}", text.strip()))
    return passages


def _words(text: str) -> list[str]:
    """Stems without stop words: "streamed", "streams" and "Streaming" are all "stream"."""
    words = (word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS)
    stems = (_SUFFIX.sub(r"\1", word) for word in words)
    return [re.sub(r"y$", "i", re.sub(r"([^aeiou])\1$", r"\1", stem)) for stem in stems]


# A model that calls a tool with the wrong arguments is told so, like of any other mistake.
for _tool in (search_handbook, calculate):
    _tool.handle_validation_error = WRONG_ARGUMENTS
