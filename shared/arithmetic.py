"""Exact arithmetic on text: the grammar behind the `calculate` tool. No eval, no float.

A parser of our own, since Python's `ast` would read 0.1 as the nearest float and has no percent.
"""

import operator
import re
from collections.abc import Callable
from decimal import Context, Decimal, Inexact
from fractions import Fraction

MAX_EXPRESSION = 200  # characters
MAX_DEPTH = 30  # parentheses and signs inside each other
MAX_BITS = 1024  # of a numerator or denominator, on the way as well: about 300 digits

_SAME_SIGN = str.maketrans(
    {"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-", "^": "**"}
)
_PERCENT = re.compile(r"%(?!\s*[0-9.(])")  # no operand follows, so it is no remainder
_TOKEN = re.compile(r"[0-9.,]+(?:e[-+]?[0-9]+)?|\*\*|//|\w+|\S")
_NUMBER = re.compile(
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]{1,3})?"
)


class CannotCalculate(Exception):
    """What is wrong with the expression, in words that a model or a person can act on."""


def evaluate(expression: str) -> Fraction:
    """The exact value, or CannotCalculate; no expression takes more than a few milliseconds."""
    if len(expression) > MAX_EXPRESSION:
        raise CannotCalculate(f"the expression is longer than {MAX_EXPRESSION} characters")
    try:
        return _Parser(expression.translate(_SAME_SIGN).lower()).result()
    except ZeroDivisionError as exc:
        raise CannotCalculate("the expression divides by zero") from exc


def as_text(value: Fraction) -> str:
    """In full if the decimals end, else as a fraction; with a rounded value if hard to read."""
    numerator, denominator = Decimal(value.numerator), Decimal(value.denominator)
    try:  # a decimal that ends has fewer digits than its fraction has bits, for 2**n * 5**n = 10**n
        exact = f"{Context(prec=MAX_BITS, traps=[Inexact]).divide(numerator, denominator):f}"
    except Inexact:
        exact = str(value)
    if "/" not in exact and len(exact) <= 24:
        return exact
    whole = len(str(abs(int(value)))) if abs(value) >= 1 else 0
    digits = 6 + whole if whole <= 15 else 6  # six decimals, and never a float
    return f"{exact} (about {Context(prec=digits).divide(numerator, denominator)})"


class _Parser:
    """Calculates while it reads. One method per line of the grammar, loosest binding first."""

    def __init__(self, expression: str) -> None:
        tokens: list[str] = _TOKEN.findall(_PERCENT.sub(" percent ", expression))
        self.rest = tokens[::-1]  # the next token is the last one
        self.depth = 0

    def result(self) -> Fraction:
        value = self.sum()
        if self.rest:
            raise CannotCalculate(f"an operator is missing before {self.rest[-1][:20]!r}")
        return value

    def sum(self) -> Fraction:  # product (("+" | "-") product)*
        value = self.product()
        while sign := self.take("+", "-"):
            value = _apply(sign, value, self.product())
        return value

    def product(self) -> Fraction:  # signed (("*" | "/" | "//" | "%" | "of") signed)*
        value = self.signed()
        while sign := self.take("*", "/", "//", "%", "of"):
            value = _apply(sign, value, self.signed())
        return value

    def signed(self) -> Fraction:  # ("-" | "+") signed | power
        self.depth += 1  # every way to nest comes through here
        if self.depth > MAX_DEPTH:
            raise CannotCalculate(f"it is nested more than {MAX_DEPTH} deep")
        sign = self.take("-", "+")
        value = self.signed() if sign else self.power()
        self.depth -= 1
        return -value if sign == "-" else value

    def power(self) -> Fraction:  # percent ["**" signed]: -2 ** 2 is -4, and 2 ** -1 is 0.5
        value = self.percent()
        return _apply("**", value, self.signed()) if self.take("**") else value

    def percent(self) -> Fraction:  # operand ["percent"]
        value = self.operand()
        return _apply("/", value, Fraction(100)) if self.take("percent") else value

    def operand(self) -> Fraction:  # number | "(" sum ")"
        if self.take("("):
            value = self.sum()
            if not self.take(")"):
                raise CannotCalculate("a ')' is missing")
            return value
        if not self.rest:
            raise CannotCalculate("a number is missing at the end")
        token = self.rest.pop()
        if _NUMBER.fullmatch(token):
            return _bounded(Fraction(token.replace(",", "")))
        raise CannotCalculate(
            f"{token[:20]!r} is not a number; use digits, + - * / // % ** ( ) and 'of'"
        )

    def take(self, *wanted: str) -> str:
        """The next token if it is one of these, else an empty string."""
        return self.rest.pop() if self.rest and self.rest[-1] in wanted else ""


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    return _bounded(Fraction(_OPERATORS[sign](left, right)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CannotCalculate("only whole-number powers are exact")
    if abs(exponent) * (_bits(base) - 1) > MAX_BITS:  # known before it is computed
        raise CannotCalculate("the result is too large")
    return base ** int(exponent)


_OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "of": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": _power,
}


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise CannotCalculate("the result is too large")
    return value
