"""What a measure is called and what it may be."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """A bound: on the ratio to the bare app, or with `times_bare=False` on the value itself."""

    limit: float
    times_bare: bool = True
    at_least: bool = False

    def holds(self, value: float, ratio: float) -> bool:
        """NaN, which is what a failed measurement gives, never holds."""
        seen = ratio if self.times_bare else value
        return seen >= self.limit if self.at_least else seen <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {self.limit:g}" + (" x bare" if self.times_bare else "")


@dataclass(frozen=True)
class Measure:
    label: str  # with its unit
    target: Target | None = None
    of: Mapping[str, Target | None] = field(default_factory=dict)
    """What is promised of services by their names, where that is something else."""
