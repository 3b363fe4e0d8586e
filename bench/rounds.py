"""Interleaved rounds: every figure on A, B, C, then on A, B, C again, and what came of it."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.figures import Figure, Sizes, Values
from bench.fleet import Fleet, fleet_on
from bench.model import running_model
from bench.service import Service, ServiceFailed
from bench.sums import ratio
from bench.targets import Target

Progress = Callable[[str], None]


@dataclass
class Outcome:
    """What one figure was on one service: the values of each round, and every failure."""

    figure: Figure
    service: Service
    rounds: list[Values] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def values(self, measure: int) -> list[float]:
        """One measure's values, a round each."""
        return [values[measure] for values in self.rounds]

    def median(self, measure: int) -> float:
        values = self.values(measure)
        return math.nan if any(map(math.isnan, values)) else median(values)

    def ratio(self, measure: int, bare: "Outcome") -> float:
        return ratio(self.values(measure), bare.values(measure))

    def target(self, measure: int) -> Target | None:
        promised = self.figure.measures[measure]
        if self.service.baseline:
            return None
        return promised.of.get(self.service.name, promised.target)

    def holds(self, measure: int, bare: "Outcome") -> bool | None:
        """Whether the measure's target is met; None without one. A failed request misses it."""
        target = self.target(measure)
        if target is None:
            return None
        met = target.holds(self.median(measure), self.ratio(measure, bare))
        return met and not self.failures


async def measure_all(
    figures: Sequence[Figure],
    services: Sequence[Service],
    rounds: int,
    sizes: Sizes,
    progress: Progress,
) -> AsyncIterator[list[Outcome]]:
    """Yields the outcomes of one figure after the other, one for each service."""
    async with running_model() as model:
        for figure in figures:
            outcomes = [Outcome(figure, service) for service in services if figure.is_for(service)]
            total = min(rounds, figure.rounds)
            async with fleet_on(model) as fleet:
                for number in range(1, total + 1):
                    for outcome in outcomes:
                        progress(f"{figure.name} {number}/{total} {outcome.service.name}")
                        await measure_once(outcome, fleet, sizes)
            yield outcomes


async def measure_once(outcome: Outcome, fleet: Fleet, sizes: Sizes) -> None:
    """Add one round. A service that does not start has no values and says why."""
    figure = outcome.figure
    try:
        values = await figure.measure(fleet, outcome.service, sizes)
    except ServiceFailed as exc:
        values = (math.nan,) * len(figure.measures)
        outcome.failures.append(str(exc))
    outcome.rounds.append(values)
    outcome.failures += fleet.failures
    fleet.failures.clear()
