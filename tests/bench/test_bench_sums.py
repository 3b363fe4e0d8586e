"""The arithmetic behind the figures."""

import math

import pytest

from bench.sums import Arrival, Heard, Pace, percentile, quotient, ratio, slope
from bench.targets import Target

PACE = Pace(first=0.02, every=0.02)
PIECES = ["one ", "two ", "three "]


def heard(*arrivals: tuple[float, str]) -> Heard:
    """A stream asked for at 100 s; times are seconds after that."""
    return Heard(100.0, [Arrival(100.0 + after, text) for after, text in arrivals])


def test_a_percentile_is_one_of_the_values() -> None:
    """The 95th of 1 to 100 is 95: nearest rank, nothing interpolated, in any order."""
    values = list(range(100, 0, -1))
    assert [percentile(values, p) for p in (0, 50, 95, 99.5, 100)] == [1, 50, 95, 100, 100]
    assert percentile([7], 95) == 7


def test_a_percentile_of_nothing_is_nan() -> None:
    """A service of which no stream came has no lateness, and none of zero either."""
    assert math.isnan(percentile([], 95))


def test_lateness_is_measured_against_the_models_pace() -> None:
    """Each piece is due at its number x 20 ms after the request; early is negative."""
    stream = heard((0.02, "one "), (0.05, "two "), (0.055, "three "))
    assert stream.lateness(PIECES, PACE) == pytest.approx([0.0, 0.01, -0.005])


def test_joined_pieces_are_as_late_as_their_event() -> None:
    """A service that waits and sends three pieces in one event is late with the first two."""
    assert heard((0.06, "one two three ")).lateness(PIECES, PACE) == pytest.approx([0.04, 0.02, 0])


def test_a_piece_has_come_when_its_end_has() -> None:
    """Sending the first letter early gains nothing."""
    stream = heard((0.001, "o"), (0.03, "ne t"), (0.07, "wo three "))
    assert stream.lateness(PIECES, PACE) == pytest.approx([0.01, 0.03, 0.01])


def test_pieces_that_never_came_have_no_lateness() -> None:
    """They are missing from the share of complete streams instead."""
    assert len(heard((0.02, "one tw")).lateness(PIECES, PACE)) == 1


def test_a_ratio_is_paired_round_by_round() -> None:
    """When the machine is twice as slow in one round for both, the ratio does not move."""
    assert ratio([1.0, 2.0, 1.0], [2.0, 4.0, 2.0]) == 0.5
    assert ratio([1.0, 1.0, 9.0], [1.0, 1.0, 1.0]) == 1.0


def test_a_ratio_needs_both_sides_in_every_round() -> None:
    """A round that failed, or a baseline of zero, is not papered over by the other rounds."""
    assert math.isnan(ratio([math.nan, 1.0, 1.0], [1.0, 1.0, 1.0]))
    assert math.isnan(ratio([1.0, 1.0, math.nan], [1.0, 1.0, 1.0]))
    assert math.isnan(ratio([1.0, 1.0, 1.0], [1.0, 0.0, 1.0]))
    assert math.isnan(quotient(1.0, 0.0))


def test_a_slope_leaves_the_fixed_cost_out() -> None:
    """5 to begin with and 2 for each: the slope is 2."""
    assert slope(10, 5 + 20, 100, 5 + 200) == 2


@pytest.mark.parametrize(
    ("target", "value", "ratio_to_bare", "holds"),
    [
        (Target(0.75), 900.0, 0.75, True),
        (Target(0.75), 0.1, 0.76, False),
        (Target(1.3, times_bare=False), 1.2, 9.0, True),
        (Target(100, times_bare=False, at_least=True), 99.0, 1.0, False),
        (Target(0.75), 1.0, math.nan, False),
        (Target(100, times_bare=False, at_least=True), math.nan, 1.0, False),
    ],
)
def test_a_target_bounds_the_ratio_or_the_value(
    target: Target, value: float, ratio_to_bare: float, holds: bool
) -> None:
    """And what could not be measured never holds."""
    assert target.holds(value, ratio_to_bare) is holds
