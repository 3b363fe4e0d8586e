"""From a question to search words, and from what the search found to a short, cited answer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from shared.offline_model.assistant.questions import MORE, PRONOUN

MAX_KEYWORDS = 12
MAX_SENTENCES = 4
MAX_CHARACTERS = 700

_WORD = re.compile(r"[^\W_](?:[\w.+#-]{0,40}\w)?")
_COMMON = """a about also an and any are as at be been best but by can could describe detail
    details did do does example examples explain for from get give good had happen happens has
    have hello help hi how i if in into is it its just know like make may me mean means more my
    need no not of on one or our please should show so some tell than thanks that the their them
    then there these they this those to up us use used using want was way we were what when
    where which who why will with work works would you your"""
_STOP_WORDS = frozenset(_COMMON.split())

_HEADER = re.compile(r"^\[([^\[\]\n]{1,200})\][ \t]*(.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?(?:^```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])")
_WANTS_CODE = re.compile(r"\b(?:code|examples?|snippet|show me)\b", re.IGNORECASE)
_NOTHING = re.compile(
    r"\s*(?:$|no\b|none\b|nothing\b|error\b|.{0,60}\b(?:has|is|found|there is) (?:nothing|no)\b"
    r"|.{0,60}\bnot found\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Passage:
    page: str | None
    text: str

    def sentences(self) -> Iterator[str]:
        for paragraph in re.split(r"\n\s*\n|\n(?=[-*] )", _FENCE.sub("\n\n", self.text)):
            plain = " ".join(paragraph.removeprefix("- ").removeprefix("* ").split())
            if plain and not plain.startswith("#"):
                yield from _SENTENCE_END.split(plain)

    def code(self) -> str | None:
        block = _FENCE.search(self.text)
        return block[0].strip() if block else None


def keywords(question: str) -> str:
    """The words of the question that say what it is about, in their order.

    Of "How do I stream tokens? And how do I stop it?" that is "stop stream": with more of the first
    question in it, the search would find the first answer again.
    """
    before, last = _follow_up(question)
    words = [*_telling(last), *_telling(before)[:1]] if _telling(last) else _telling(before)
    return " ".join(words[:MAX_KEYWORDS]) or question.strip()[:200]


def _follow_up(question: str) -> tuple[str, str]:
    """A follow-up apart from what it follows; for any other question the first is empty."""
    *before, last = _SENTENCE_END.split(question.strip())
    if before and (PRONOUN.search(last) or MORE.search(last)):
        return " ".join(before), last
    return "", question


def _telling(text: str) -> list[str]:
    words = dict.fromkeys(_WORD.findall(text))  # a set's order would differ between runs
    return [word for word in words if word.lower() not in _STOP_WORDS]


def answer_from(found: str, question: str) -> str:
    """A few sentences of the best passage and the page that they are from."""
    passages = _ordered(_read(found), question)
    if not passages:
        return "I found nothing about that in the handbook."
    page = passages[0].page
    same_page = [passage for passage in passages if passage.page == page]
    answer = _summary(same_page)
    code = next(filter(None, (passage.code() for passage in same_page)), None)
    if code and (_WANTS_CODE.search(question) or not answer):
        answer = f"{answer}\n\n{code}".strip()
    return f"{answer}\n\nSource: {page}" if page else answer


def _read(found: str) -> list[Passage]:
    """The passages under lines like `[page.md] Title > Section`, or the whole text as one."""
    headers = list(_HEADER.finditer(found))
    if not headers:
        return [] if _NOTHING.match(found) else [Passage(None, found)]
    ends = [*(header.start() for header in headers[1:]), len(found)]
    passages = [
        Passage(header[1].strip(), found[header.end() : end].strip())
        for header, end in zip(headers, ends, strict=True)
    ]
    return [passage for passage in passages if passage.text]


def _ordered(passages: list[Passage], question: str) -> list[Passage]:
    """As found, but for a follow-up: first what has its own words, code or something new."""
    before, last = _follow_up(question)
    if not before:
        return passages
    if words := [word[:5].lower() for word in _telling(last)]:
        return sorted(passages, key=lambda each: not any(w in each.text.lower() for w in words))
    if _WANTS_CODE.search(last):
        return sorted(passages, key=lambda each: each.code() is None)
    return passages[1:] or passages


def _summary(passages: list[Passage]) -> str:
    """The first sentences, at least one, as long as they are few and short."""
    chosen: list[str] = []
    for sentence in (sentence for passage in passages for sentence in passage.sentences()):
        length = sum(map(len, chosen)) + len(sentence)
        if len(chosen) == MAX_SENTENCES or (chosen and length > MAX_CHARACTERS):
            break
        chosen.append(sentence[:MAX_CHARACTERS])
    return " ".join(chosen)
