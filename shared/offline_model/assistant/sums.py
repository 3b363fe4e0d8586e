"""Arithmetic in words, as an expression: "17.5% of 2480, minus 12" is `17.5% of 2480 - 12`.

Nothing is calculated here; that is the `calculate` tool's work. Every pattern is linear in the
text, and the caller bounds its length.
"""

import re
from decimal import Decimal

_NUMBER = r"(?<!\d)(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_AMOUNT = rf"({_NUMBER}%?)"
_PERCENT = rf"({_NUMBER}%)"

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_ONES.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_LARGE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
_NUMERAL = "|".join([*_SMALL, *_LARGE])
_SPELLED = re.compile(
    rf"\b(?:{_NUMERAL})(?:(?:(?<=hundred)|(?<=thousand)|(?<=million)) and (?:{_NUMERAL})"
    rf"|[ -](?:{_NUMERAL}))*\b"
)
_SCALED = re.compile(rf"({_NUMBER}) ({'|'.join(_LARGE)})\b")

# In this order: whole phrases first, then the words for single operators.
_PHRASES = [
    (re.compile(pattern), expression)
    for pattern, expression in [
        (r"(?<=\d) ?per ?cent\b", "%"),
        (r"(?<=\d) [^\W\d]{2,20} (?=(?:plus|minus|times|divided by|multiplied by) )", " "),
        (rf"\b(?:increase|raise) {_AMOUNT} by {_PERCENT}", r"\1 * (1 + \2)"),
        (rf"\b(?:decrease|reduce|lower) {_AMOUNT} by {_PERCENT}", r"\1 * (1 - \2)"),
        (rf"\badd {_PERCENT} to {_AMOUNT}", r"\2 * (1 + \1)"),
        (rf"{_PERCENT} off {_AMOUNT}", r"\2 * (1 - \1)"),
        (rf"\bdivide {_AMOUNT} by {_AMOUNT}", r"\1 / \2"),
        (rf"\bmultiply {_AMOUNT} (?:by|with|and) {_AMOUNT}", r"\1 * \2"),
        (rf"\badd {_AMOUNT} (?:to|and) {_AMOUNT}", r"\2 + \1"),
        (rf"\b(?:subtract|take|deduct) {_AMOUNT} from {_AMOUNT}", r"\2 - \1"),
        (rf"\bsum of {_AMOUNT} and {_AMOUNT}", r"\1 + \2"),
        (rf"\bdifference (?:between|of) {_AMOUNT} and {_AMOUNT}", r"\1 - \2"),
        (rf"\bproduct of {_AMOUNT} and {_AMOUNT}", r"\1 * \2"),
        (rf"\bsquare root of {_AMOUNT}", r"\1 ** 0.5"),
        (rf"\bsquare {_AMOUNT}", r"\1 ** 2"),
        (rf"\bcube {_AMOUNT}", r"\1 ** 3"),
        (r"\bhalf of\b", "50% of"),
        (r"\b(?:a |one )?quarter of\b", "25% of"),
        (r"\b(?:a |one )?third of\b", "1 / 3 of"),
        (r"\b(?:twice|double) (?=[\d.(])", "2 * "),
        (r"\btriple (?=[\d.(])", "3 * "),
        (r"\bplus\b", "+"),
        (r"\bminus\b", "-"),
        (r"\b(?:times|multiplied by)\b", "*"),
        (r"\bdivided by\b", "/"),
        (r"\b(?:modulo|mod)\b", "%"),
        (r"\b(?:raised )?to the power of\b|\^", "**"),
        (r"\bsquared\b", "** 2"),
        (r"\bcubed\b", "** 3"),
        (r"(?<=\d) ?x ?(?=\d)", " * "),
        (r",? ?\b(?:and )?then (?=[-+*/])", " then "),
        (r"%(?! ?[\d(])", " percent"),
    ]
]
_SIGNS = str.maketrans("×÷−–·", "*/--*")
_PERCENTS = r"(?: percent\b)?"
_OPERAND = (
    rf"\({{0,8}} ?-? ?(?<![\w.])(?<!\d ){_NUMBER}(?!\w|\.\d){_PERCENTS} ?\){{0,8}}{_PERCENTS}"
)
_OPERATOR = r"(?:\*\*|//|[-+*/%]|\bof\b)"
_EXPRESSION = re.compile(rf"{_OPERAND}(?: ?,? ?(?:then )?{_OPERATOR} ?{_OPERAND})+")
_SYMBOL = re.compile(rf"{_NUMBER}|\*\*|//|[-+*/%()]|[a-z]+")
_AMBIGUOUS = re.compile(r"[\d.,]+(?:[-/][\d.,]+)+")  # also a range, a date or "24/7"
_ONE_PERCENTAGE = re.compile(rf"^({_NUMBER}) ([+-]) ({_NUMBER}%)$")
_FILLERS = """a and answer are be calculate can compute could equal equals evaluate figure find give
    hello hey hi how i is it know me much now of ok out please result s solve tell that the then to
    value want what whats work would you"""

_REFERENCE = re.compile(
    r"\b(?:that|it|this|the (?:last |previous )?(?:result|answer|total|number|sum))\b"
)
_OPENING = r"^((?:(?:and|now|then|so|ok|okay|please|what about|what is)\b,? ?)*)"
_ELLIPSES = [
    (re.compile(_OPENING + pattern), expression)
    for pattern, expression in [
        (rf"(divide|multiply) by (?={_NUMBER})", r"\g<1>\2 {last} by "),
        (rf"add {_AMOUNT}(?! ?(?:and|to)\b)", r"\g<1>add \2 to {last}"),
        (rf"(?:subtract|take away|deduct) {_AMOUNT}(?! ?from\b)", r"\g<1>subtract \2 from {last}"),
        (r"((?:plus|minus|times|divided by|multiplied by|[-+*/]) )", r"\g<1>{last} \2"),
    ]
]

_RESULT = re.compile(r"= (-?[\d,]*\.?\d+(?:/\d+)?)")
_ANY_NUMBER = re.compile(rf"-?{_NUMBER}")


def expressions(text: str) -> list[str]:
    """What there is to calculate in `text`, in the notation of the `calculate` tool."""
    plain = _normalised_numbers(text)
    if not re.search(r"\d", plain):
        return []
    for pattern, expression in _PHRASES:
        plain = pattern.sub(expression, plain)
    found = [match for match in _EXPRESSION.finditer(plain) if _is_meant(match, plain)]
    return [_tidy(match[0]) for match in found]


def continued(text: str, last: str) -> list[str]:
    """`expressions` of a follow-up, such as "divide that by 2", on the result `last`."""
    plain = _normalised_numbers(text)
    replaced = _REFERENCE.sub(last, plain)
    if replaced == plain:
        for pattern, expression in _ELLIPSES:
            replaced, count = pattern.subn(expression.replace("{last}", last), plain)
            if count:
                break
    return expressions(replaced) if replaced != plain else []


def last_result(answer: str) -> str | None:
    """The number that `answer` ended on: the last after an equals sign, or the only one in it."""
    numbers = _RESULT.findall(answer) or _ANY_NUMBER.findall(answer)
    if not numbers or (len(numbers) > 1 and not _RESULT.search(answer)):
        return None
    number: str = numbers[-1].replace(",", "")
    return f"({number})" if "/" in number else number


def _normalised_numbers(text: str) -> str:
    plain = " ".join(text.lower().translate(_SIGNS).split())
    return _SPELLED.sub(_as_digits, _SCALED.sub(_multiplied_out, plain))


def _multiplied_out(match: re.Match[str]) -> str:
    """ "1.5 million" is "1500000"."""
    number = Decimal(match[1].replace(",", "")) * _LARGE[match[2]]
    return f"{number.normalize():f}"


def _as_digits(match: re.Match[str]) -> str:
    total = group = 0
    for word in re.findall(r"[a-z]+", match[0]):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word in _LARGE:
            total, group = total + max(group, 1) * _LARGE[word], 0
        else:
            group += _SMALL.get(word, 0)
    return str(total + group)


def _is_meant(match: re.Match[str], text: str) -> bool:
    """`10-20` and `24/7` count only where nothing but arithmetic is asked."""
    if not _AMBIGUOUS.fullmatch(match[0].strip()):
        return True
    rest = text[: match.start()] + " " + text[match.end() :]
    return set(_FILLERS.split()).issuperset(re.findall(r"\w+", rest))


def _tidy(expression: str) -> str:
    text = ""
    for symbol in _SYMBOL.findall(expression):
        if symbol == "then":
            text = f"({text.strip()})"
        elif symbol == "percent":
            text = text.rstrip() + "%"
        elif symbol == ")":
            text = text.rstrip() + ")"
        elif symbol == "(" or symbol[-1].isdigit():
            text += symbol.replace(",", "")
        elif symbol == "-" and (not text or text.endswith((" ", "("))):
            text += "-"
        else:
            text = f"{text.rstrip()} {symbol} "
    text = _balanced(text.strip())
    # "80 minus 20%" takes away a fifth of 80, where the calculator would take 0.2
    return _ONE_PERCENTAGE.sub(r"\1 * (1 \2 \3)", text)


def _balanced(text: str) -> str:
    """Without the brackets of the sentence around it: "(2 + 3" and "2 + 3)" are `2 + 3`."""
    while text.count("(") > text.count(")") and text.startswith("("):
        text = text[1:].strip()
    while text.count(")") > text.count("(") and text.endswith(")"):
        text = text[:-1].strip()
    return text
