"""The arithmetic behind the figures. What cannot be said, because nothing came, is NaN."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median


@dataclass(frozen=True)
class Pace:
    """When the model says its pieces: `first` s after the request, then one every `every` s."""

    first: float
    every: float

    def due(self, index: int) -> float:
        """Seconds from the request to piece `index`, which counts from 0."""
        return self.first + index * self.every


@dataclass(frozen=True)
class Arrival:
    at: float  # seconds, on the clock that started the request
    text: str


@dataclass(frozen=True)
class Heard:
    """A stream as the client heard it: when it asked, and each non-empty text with its time."""

    started: float
    arrivals: Sequence[Arrival]

    @property
    def first_after(self) -> float:
        """Seconds from the request to the first text."""
        return self.arrivals[0].at - self.started

    def lateness(self, pieces: Iterable[str], pace: Pace) -> list[float]:
        """How long after its due time each piece was there, in seconds; negative when early.

        A piece is there when the text received so far reaches its end: a service that joins
        pieces is as late as the last of them, and one that splits them gains nothing. Pieces
        that never came are not in the list.
        """
        late: list[float] = []
        ends = list(accumulate(map(len, pieces)))
        received = 0
        for arrival in self.arrivals:
            received += len(arrival.text)
            while len(late) < len(ends) and ends[len(late)] <= received:
                late.append(arrival.at - self.started - pace.due(len(late)))
        return late


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank)."""
    if not values:
        return math.nan
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def quotient(value: float, base: float) -> float:
    return value / base if base > 0 else math.nan


def ratio(values: Sequence[float], bases: Sequence[float]) -> float:
    """The median of the round-by-round ratios: a slow minute hits both sides of each.

    NaN as soon as one round has none.
    """
    quotients = [quotient(value, base) for value, base in zip(values, bases, strict=True)]
    return math.nan if any(map(math.isnan, quotients)) else median(quotients)


def slope(x1: float, y1: float, x2: float, y2: float) -> float:
    """What one more x costs, the fixed cost taken out."""
    return (y2 - y1) / (x2 - x1)
