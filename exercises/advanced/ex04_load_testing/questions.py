"""What the users of a load test ask: sums, whose answers can be checked. Given."""

import random
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    text: str
    answer: int

    def is_answered_by(self, text: str) -> bool:
        """Whether the answer is among the numbers in `text`; 7,006,652 is one number."""
        return str(self.answer) in re.findall(r"\d+", text.replace(",", ""))


def first_question() -> Question:
    """A new one nearly every time, so that no cache knows it."""
    one, other = random.randrange(1_000, 10_000), random.randrange(1_000, 10_000)
    return Question(f"What is {one} times {other}?", one * other)


def follow_up(previous: Question) -> Question:
    """Makes sense only to somebody who remembers the question before."""
    more = random.randrange(100, 1_000)
    return Question(f"And plus {more}?", previous.answer + more)
