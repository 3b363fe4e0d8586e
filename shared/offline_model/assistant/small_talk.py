"""What the assistant says for itself: greetings, what it is, and what it remembers."""

import re

from shared.offline_model.assistant.conversation import Conversation, Exchange

MAX_SMALL_TALK = 120  # characters

WHAT_I_AM = (
    "I am the offline assistant: not a language model, but fixed rules that need no key and no"
    " network, and answer the same question with the same words every time. I look things up in the"
    ' course handbook and have arithmetic worked out exactly. Try "How do I stream tokens with'
    ' FastAPI?" or "What is 17.5% of 2480, minus 12?".'
)
NOT_OFFLINE = (
    "I cannot answer that offline: it takes a real model. What I can do is look things up in the"
    ' course handbook, such as "How do I stream tokens with FastAPI?", and have arithmetic worked'
    ' out exactly, such as "What is 17.5% of 2480, minus 12?".'
)

_GREETING = (
    r"(?:(?:hello|hi|hiya|hey|howdy|yo|greetings|good (?:morning|afternoon|evening|day)|hallo|hola"
    r"|bonjour|salut|servus|moin|guten (?:tag|morgen|abend)|olá|привет|你好|こんにちは|مرحبا)"
    r"(?: |$)){1,3}(?:[^\W\d]{1,20})?"
)
_THANKS = (
    r"(?:(?:ok|okay|great|perfect|many|very nice) )?"
    r"(?:thanks?|thank you|thx|cheers|merci|danke|gracias)(?: .{0,40})?"
)
_GOODBYE = r"(?:good ?bye|bye|bye bye|good night|see you(?: .{0,20})?|ciao)"
_HOW_ARE_YOU = (
    r"(?:how are you|how is it going|how are things|how do you do|what is up)(?: .{0,20})?"
)
_AGREEMENT = (
    r"(?:ok|okay|great|nice|cool|perfect|good|fine|yes|no|sure|i see|got it|understood|all right"
    r"|alright|nice to meet you)"
)
_WHO_ARE_YOU = (
    r"(?:who|what) are you(?: .{0,20})?|what is your name|introduce yourself|help(?: me)?"
    r"|what (?:can|could|do) you (?:do|offer|know)(?: for me| here| offline)?"
    r"|(?:how )?can you help(?: me)?|how do you work|what are your (?:skills|capabilities)"
    r"|are you (?:an? )?(?:real )?(?:ai|bot|robot|human|person|model|offline|real|chatgpt)"
    r"(?: .{0,20})?|(?:what|which) (?:ai |language )?model (?:are you|is this|do you use)"
)
_SMALL_TALK = {
    re.compile(_GREETING): (
        "Hello! Ask me about deploying AI agents, or give me something to calculate."
    ),
    re.compile(_THANKS): "You are welcome. Is there anything else that I can look up or calculate?",
    re.compile(_GOODBYE): "Goodbye!",
    re.compile(_HOW_ARE_YOU): ("I am well, thank you. What can I look up or calculate for you?"),
    re.compile(_AGREEMENT): "Good. What shall I look up or calculate?",
    re.compile(_WHO_ARE_YOU): WHAT_I_AM,
}
_MY_NAME_IS = re.compile(
    r"\b(?:[Mm]y name is|[Mm]y name's|[Cc]all me|[Ii] am called) ([^\W\d_][\w'’-]{0,40}"
    r"(?: [^\W\d_a-z][\w'’-]{0,40}){0,2})"
    r"|^(?:[Ii] am|[Ii]'m) ([^\W\d_a-z][\w'’-]{0,40})[.!]?$"
)
_ASKS_NAME = re.compile(
    r"(?:what is|do you (?:know|remember)|tell me|remember) my name|who am i|what am i called"
)
_ASKS_QUESTION = re.compile(
    r"(?:what|which) (?:was|is|were) my (last|previous|first)(?: \w+)? ?(?:question|message|query)"
    r"|what did i (?:just )?(?:ask|say|want to know)|(?:repeat|tell me) my (?:last |previous )?"
    r"(?:question|message)"
)
_ASKS_ANSWER = re.compile(
    r"what (?:did you (?:just )?(?:say|answer|tell me)|was your (?:last |previous )?answer)"
    r"|(?:repeat|say) (?:that|it|your (?:last |previous )?answer)(?: again)?$"
)


def small_talk(text: str) -> str | None:
    """The answer if `text` is nothing but small talk or a question about the assistant."""
    if len(text) > MAX_SMALL_TALK:
        return None
    plain = _plain(text)
    return next((say for pattern, say in _SMALL_TALK.items() if pattern.fullmatch(plain)), None)


def recollection(text: str, conversation: Conversation) -> str | None:
    """The answer if `text` is about the conversation itself, or tells a name to remember."""
    plain = _plain(text)
    if _ASKS_NAME.search(plain):
        return _name_answer(conversation)
    if match := _ASKS_QUESTION.search(plain):
        return _question_answer(conversation.earlier(), first=match[1] == "first")
    if _ASKS_ANSWER.search(plain):
        return _previous_answer(conversation.earlier())
    if name := _name_in(text):
        return f"Nice to meet you, {name}."
    return None


def _plain(text: str) -> str:
    """Lower case, words only: "What's your name?!" is "what is your name"."""
    words = re.findall(r"\w+", text[:300].lower())
    return re.sub(r"\b(what|who|how|it|that) s\b", r"\1 is", " ".join(words))


def _name_in(text: str) -> str | None:
    match = _MY_NAME_IS.search(text)
    return (match[1] or match[2]) if match else None


def _name_answer(conversation: Conversation) -> str:
    said = [conversation.question, *(exchange.question for exchange in conversation.earlier())]
    name = next(filter(None, map(_name_in, said)), None)
    return f"Your name is {name}." if name else "You have not told me your name."


def _question_answer(earlier: list[Exchange], *, first: bool) -> str:
    if not earlier:
        return "This is the first question that I can see in this conversation."
    if first:
        return f'The first question that I can see was: "{earlier[-1].question}"'
    return f'Your last question was: "{earlier[0].question}"'


def _previous_answer(earlier: list[Exchange]) -> str:
    if not earlier or not earlier[0].answer:
        return "I have not said anything yet in this conversation."
    return f"I said: {earlier[0].answer}"
