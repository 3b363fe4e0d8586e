"""From points to a mark: weights, criteria, what lateness costs. All of it is configuration."""

import csv
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from grader.catalogue import Exercise, GradingError, Strict, Text, criteria

Weight = Annotated[float, Field(ge=0, le=1000)]
Percent = Annotated[float, Field(ge=0, le=100)]
DAY = timedelta(days=1)
MOMENT = TypeAdapter(AwareDatetime)


class Late(Strict):
    """Each day begun after `due` takes `percent_per_day` off the total."""

    due: AwareDatetime
    grace_minutes: int = Field(default=0, ge=0)
    percent_per_day: Percent = 10
    most_percent: Percent = 100
    extensions: dict[str, AwareDatetime] = Field(default_factory=dict)
    """Another due date for some, by the name of their folder or archive."""

    def percent(self, student: str, handed_in: datetime) -> float:
        due = self.extensions.get(student, self.due) + timedelta(minutes=self.grace_minutes)
        days = math.ceil((handed_in - due) / DAY)
        return min(max(days, 0) * self.percent_per_day, self.most_percent)


class Rubric(Strict):
    """One `RUBRIC=` file; what it does not say is as below."""

    title: Text = "Deploying AI agents"
    total_of: Literal["exercises", "criteria"] = "exercises"
    """What the total is the weighted mean of."""

    weights: dict[str, Weight] = Field(default_factory=dict)
    """By exercise, such as "medium/ex02", or criterion; 1 unless said, and 0 leaves it out."""

    late: Late | None = None
    similar_from: Percent = 70
    """Answers that share so much are pointed out to a person."""

    def weight(self, name: str) -> float:
        return self.weights.get(name, 1)


def load_rubric(path: Path | None, exercises: Sequence[Exercise]) -> Rubric:
    """Raises GradingError, also for weights of what is not there."""
    if path is None:
        return Rubric()
    try:
        rubric = Rubric.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise GradingError(f"Cannot read {path}: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise GradingError(f"{path} is not TOML: {exc}.") from exc
    except ValidationError as exc:
        faults = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()
        )
        raise GradingError(f"{path} needs mending: {faults}.") from exc
    known = {exercise.short for exercise in exercises} | {each.id for each in criteria()}
    if unknown := rubric.weights.keys() - known:
        raise GradingError(
            f"{path} weighs {min(unknown)}, which is neither an exercise nor a criterion."
        )
    return rubric


def handed_in(path: Path) -> dict[str, datetime]:
    """Who handed in when: a CSV with `student` and `handed_in`. Raises GradingError."""
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {row["student"]: MOMENT.validate_python(row["handed_in"]) for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValidationError) as exc:
        raise GradingError(
            f"{path} should have the columns student and handed_in, each moment with its time"
            " zone, such as 2026-11-20T18:00:00+01:00."
        ) from exc


@dataclass(frozen=True)
class Points:
    """Of something: a criterion, an exercise."""

    earned: float = 0
    possible: float = 0

    def __add__(self, other: "Points") -> "Points":
        return Points(self.earned + other.earned, self.possible + other.possible)

    @property
    def percent(self) -> float:
        return rounded(100 * self.earned / self.possible) if self.possible else 0.0


def weighted(rubric: Rubric, percents: Mapping[str, float]) -> float:
    """Of a hundred; exact until it is rounded, so that the order does not matter."""
    weights = {name: Fraction(rubric.weight(name)) for name in percents}
    whole = sum(weights.values())
    if not whole:
        return 0.0
    return rounded(float(sum(weights[n] * Fraction(percents[n]) for n in percents) / whole))


def rounded(number: float) -> float:
    """To a tenth; halves go up, as people expect."""
    return math.floor(number * 10 + 0.5) / 10
