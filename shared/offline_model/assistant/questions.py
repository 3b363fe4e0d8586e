"""Takes a question apart: what to look up, what to calculate, what to answer at once."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.offline_model.assistant.conversation import Conversation
from shared.offline_model.assistant.small_talk import recollection, small_talk
from shared.offline_model.assistant.sums import continued, expressions, last_result

MAX_CLAUSES = 20  # a longer question is not taken apart any further

_OPENERS = (
    "what|how|why|when|which|who|where|calculate|compute|explain|describe|tell|give|show|list"
    "|work out|compare|can|could|do|does|should|is|are|divide|multiply|add|subtract"
)
_JOINT = re.compile(
    r"(?<=[.!?;])\s+|\n+"
    rf"|,?\s(?:and|then|also|but)\s(?=(?:also |then |now |please ){{0,2}}(?:{_OPENERS})\b)"
    rf"|,\s(?=(?:{_OPENERS})\b)",
    re.IGNORECASE,
)
_LONE_OPENER = re.compile("how|why|what|when|where|which", re.IGNORECASE)
_ORDER = re.compile(
    r"(?:please )?(?:calculate|compute|explain|describe|tell|give|show|list|work out|compare|divide"
    r"|multiply|add|subtract)\b",
    re.IGNORECASE,
)
_KEY_WORDS = re.compile(r"(?:[\w.,'/+#-]+(?: |$)){1,6}")
_CONNECTORS = re.compile(r"^(?:(?:and|then|also|but|so)\b[\s,]*)+", re.IGNORECASE)
_ASKS = re.compile(
    r"\?\s*$|^\W*(?:(?:and|but|so|please|then|hi|hello|hey)\b\W*){0,3}"
    rf"(?:{_OPENERS}|i (?:want|need|would like) to know|teach|help)\b",
    re.IGNORECASE,
)
_EXPLAIN = re.compile(
    r"\b(?:how (?:do|does|can|could|should|would|to)|why|explain|describe)\b", re.IGNORECASE
)
_SAYS_OF_SELF = re.compile(r"^\W*(?:i|i'm|my|we|you|it|this|that|he|she|they)\b", re.IGNORECASE)
MORE = re.compile(
    r"\b(?:tell me more|more details?|more about|go on|continue|elaborate|for example"
    r"|an? example|in more detail|what else)\b|^\W*(?:and )?(?:why|how so|how|more)\W*$"
    r"|^\W*(?:and |but |so )?(?:what|how) about\b|^\W*(?:and|but) (?:with|without|for|in|on|if)\b",
    re.IGNORECASE,
)
PRONOUN = re.compile(  # "that" only where it does not join two clauses, as in "a test that fails"
    r"\b(?:its?|this|these|those|they|them|that(?=\W*$|\W+(?:with|without|in|on|for|by|to|work|mean"
    r"|do|happen|needed|possible|safe)))\b",
    re.IGNORECASE,
)

# What the course is about, as beginnings of words; those in _WHOLE must be whole words.
_BEGINNINGS = """stream token fastapi async await event session jwt authent authori login password
    bcrypt secret cach redis valkey metric prometheus grafana monitor health readiness liveness
    container docker kubernetes langgraph langchain langsmith checkpoint agent llm openai chatgpt
    prompt tool graph node python pydantic validat cors cookie config environment setting logg logs
    trac telemetry test pytest uvicorn gunicorn server client service deploy http endpoint route
    request response header status error exception timeout timed retr backoff queue worker process
    thread concurren parallel memory databas sqlite postgres shutdown sigterm signal nginx prox
    scal laten performan benchmark websocket json schema middleware dependenc inject lifespan
    generator coroutine softwar code coding program librar package function decorator supervisor
    researcher handbook course openapi swagger curl backend frontend hallucin embedding encrypt
    hashing iterat recursion cancel disconnect production rollback"""
_WHOLE = """sse api apis rest rate rates limit limits auth oauth key keys model models state states
    hash hashes ci cd git url urls sql ttl tls ssl cpu ram env app apps web bug bugs debug log rag
    mcp orm db ui sdk cli"""
_TOPIC = re.compile(
    rf"\b(?:{'|'.join(_BEGINNINGS.split())})|\b(?:{'|'.join(_WHOLE.split())})\b", re.IGNORECASE
)
_CODE_NAME = re.compile(r"`|[a-z0-9]_[a-z0-9]|\b[A-Z][a-z]+[A-Z]|\w\(\)")


class Kind(StrEnum):
    KNOWLEDGE = "knowledge"
    ARITHMETIC = "arithmetic"
    SMALL_TALK = "small talk"
    RECOLLECTION = "recollection"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a question. `text` can be understood by itself; `answer` needs no tool."""

    kind: Kind
    text: str
    answer: str = ""


def parts_of(conversation: Conversation) -> list[Part]:
    """The parts of the question, in order; at least one."""
    question = conversation.question
    parts: list[Part] = []
    for clause in _clauses(question):
        for part in _understood(clause, conversation):
            _append(parts, part)
    if all(part.kind is Kind.OTHER for part in parts) and _is_knowledge(question):
        return [Part(Kind.KNOWLEDGE, question)]
    return parts or [Part(Kind.OTHER, question)]


def _clauses(question: str) -> list[str]:
    clauses: list[str] = []
    for clause in filter(None, map(str.strip, _JOINT.split(question, MAX_CLAUSES))):
        if clauses and _LONE_OPENER.fullmatch(clauses[-1]):
            clauses[-1] += f" and {clause}"  # "How and why ..."
        else:
            clauses.append(clause)
    return clauses


def _append(parts: list[Part], part: Part) -> None:
    """Neighbours of one kind become one part: one hand-over, not two."""
    joinable = part.kind in (Kind.KNOWLEDGE, Kind.ARITHMETIC)
    if joinable and parts and parts[-1].kind is part.kind:
        parts[-1] = replace(parts[-1], text=f"{parts[-1].text} {part.text}")
    else:
        parts.append(part)


def _understood(clause: str, conversation: Conversation) -> list[Part]:
    if answer := small_talk(clause):
        return [Part(Kind.SMALL_TALK, clause, answer)]
    if answer := recollection(clause, conversation):
        return [Part(Kind.RECOLLECTION, clause, answer)]
    if expressions(clause):
        sum_part = Part(Kind.ARITHMETIC, _sentence(clause))
        if _EXPLAIN.search(clause) and _is_knowledge(clause):
            return [replace(sum_part, kind=Kind.KNOWLEDGE), sum_part]
        return [sum_part]
    if follow_up := _arithmetic_follow_up(clause, conversation):
        return [follow_up]
    if follow_up := _knowledge_follow_up(clause, conversation):
        return [follow_up]
    if _is_knowledge(clause):
        return [Part(Kind.KNOWLEDGE, _sentence(clause))]
    return [Part(Kind.OTHER, clause)]


def _sentence(clause: str) -> str:
    """The clause as it would be asked alone."""
    text = _CONNECTORS.sub("", clause).strip(" ,;")
    if not _ASKS.search(text):
        return text
    text = text[:1].upper() + text[1:]
    if text.endswith((".", "!", "?")):
        return text
    return text + ("." if _ORDER.match(text) else "?")


def _is_knowledge(text: str) -> bool:
    """A question, or bare key words, on the course's subject."""
    if not (_TOPIC.search(text) or _CODE_NAME.search(text)):
        return False
    return bool(
        _ASKS.search(text) or (_KEY_WORDS.fullmatch(text) and not _SAYS_OF_SELF.search(text))
    )


def _arithmetic_follow_up(clause: str, conversation: Conversation) -> Part | None:
    """ "Now divide that by 2" after an answer of 422 is "What is 422 / 2?"."""
    results = (last_result(exchange.answer) for exchange in conversation.earlier())
    last = next(filter(None, results), None)
    asked = continued(clause, last) if last else []
    return Part(Kind.ARITHMETIC, f"What is {' and '.join(asked)}?") if asked else None


def _knowledge_follow_up(clause: str, conversation: Conversation) -> Part | None:
    """ "And how do I stop it?", with the question that it goes on from before it."""
    refers = MORE.search(clause) or (PRONOUN.search(clause) and _ASKS.search(clause))
    if not refers:
        return None
    for exchange in conversation.earlier():
        topic = [_sentence(each) for each in _clauses(exchange.question) if _stands_alone(each)]
        if topic:
            return Part(Kind.KNOWLEDGE, f"{' '.join(topic)} {clause}")
    return None


def _stands_alone(clause: str) -> bool:
    return (
        _is_knowledge(clause)
        and not expressions(clause)
        and not MORE.search(clause)
        and not (PRONOUN.search(clause) and not _TOPIC.search(clause))
    )
