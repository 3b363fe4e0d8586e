"""From arithmetic in words to an expression."""

import time

import pytest

from shared.offline_model.assistant.sums import continued, expressions, last_result


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        ("What is 17.5% of 2480, minus 12?", "17.5% of 2480 - 12"),
        ("2+2", "2 + 2"),
        ("What's 1,250 times 3?", "1250 * 3"),
        ("twenty-five times four", "25 * 4"),
        ("six hundred and five divided by five", "605 / 5"),
        ("2.5 million plus one hundred", "2500000 + 100"),
        ("(2 + 3) * -4", "(2 + 3) * -4"),
        ("Please (what is 2 + 3)", "2 + 3"),
        ("divide 10 by 4", "10 / 4"),
        ("Multiply 6 by 7", "6 * 7"),
        ("subtract 3 from 10", "10 - 3"),
        ("the sum of 3 and 4", "3 + 4"),
        ("the difference between 10 and 4", "10 - 4"),
        ("half of 90", "50% of 90"),
        ("a third of 90", "1 / 3 of 90"),
        ("7 squared", "7 ** 2"),
        ("2 to the power of 10", "2 ** 10"),
        ("17 mod 5", "17 % 5"),
        ("3x4", "3 * 4"),
        ("4 \u00d7 5 \u00f7 2", "4 * 5 / 2"),
        ("12 per cent of 50", "12% of 50"),
        ("5 plus 3, then times 2", "(5 + 3) * 2"),
        ("80 minus 20%", "80 * (1 - 20%)"),
        ("add 10% to 50", "50 * (1 + 10%)"),
        ("20% off 80", "80 * (1 - 20%)"),
        ("3 apples plus 4 apples", "3 + 4"),
        ("What is 10/2?", "10 / 2"),
        ("1/0", "1 / 0"),
    ],
)
def test_words_become_an_expression(words: str, expression: str) -> None:
    """What a person writes is what the calculator understands."""
    assert expressions(words) == [expression]


def test_several_sums_are_several_expressions() -> None:
    """Each sum of a question is found."""
    assert expressions("What is 2 + 2 and 3 * 4?") == ["2 + 2", "3 * 4"]


@pytest.mark.parametrize(
    "words",
    [
        "How do I retry 3 times?",
        "127.0.0.1:8000",
        "Python 3.11 and 3.12",
        "released on 2026-11-23, supported 24/7",
        "10 to 20 workers",
        "HTTP/1.1",
        "1.5 million",
        "10%",
        "",
    ],
)
def test_numbers_alone_are_no_arithmetic(words: str) -> None:
    """Versions, addresses, dates and counts are not calculated."""
    assert expressions(words) == []


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        ("Now divide that by 2", "422 / 2"),
        ("divide by 3", "422 / 3"),
        ("plus 10?", "422 + 10"),
        ("And minus 5", "422 - 5"),
        ("add 10", "422 + 10"),
        ("Double it.", "2 * 422"),
        ("What is 10% of the result?", "10% of 422"),
    ],
)
def test_follow_ups_go_on_from_the_last_result(words: str, expression: str) -> None:
    """A sum without its first number starts from the result before it."""
    assert continued(words, "422") == [expression]


@pytest.mark.parametrize("words", ["How do I stop it?", "Tell me more about that", "Why?"])
def test_other_follow_ups_are_no_arithmetic(words: str) -> None:
    """A reference to what was said is not always one to a number."""
    assert continued(words, "422") == []


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("17.5% of 2480 - 12 = 422.", "422"),
        ("2 * 3 = 6.\n\n10 - 1,015.5 = -1,005.5.", "-1005.5"),
        ("1 / 3 = 1/3 (about 0.333333).", "(1/3)"),
        ("It is 42.", "42"),
        ("Answer 429, and wait 10 seconds.", None),
        ("Hello!", None),
    ],
)
def test_the_last_result_is_found_in_an_answer(answer: str, number: str | None) -> None:
    """What an answer ended on can be calculated with."""
    assert last_result(answer) == number


@pytest.mark.parametrize(
    "unit", ["(", "1+", "9", "one ", "1 ", "- ", "1,", "1.", "%", "1% ", " ", "of ", "(1", "add 1 "]
)
def test_long_input_is_quick(unit: str) -> None:
    """No text of 2,000 characters keeps the server busy for long."""
    started = time.process_time()
    text = (unit * 2000)[:2000]
    expressions(text)
    continued(text, "1")
    assert time.process_time() - started < 0.5
