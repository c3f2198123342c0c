"""Intervals against tables, and how often they hold."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from hermes_lb.lab.intervals import estimate, jain, ratio, t_quantile


@pytest.mark.parametrize(
    ("p", "freedom", "value"),
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 3, 3.18245), (0.975, 4, 2.77645),
        (0.975, 9, 2.26216), (0.975, 30, 2.04227), (0.995, 4, 4.60409), (0.9975, 4, 5.59757),
        (0.9995, 9, 4.78091), (0.025, 4, -2.77645), (0.5, 4, 0.0),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_students_table(p: float, freedom: int, value: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(value, rel=1e-5)


def test_an_interval_of_95_percent_holds_the_mean_95_times_in_100() -> None:
    """Of 4,000 samples of five: within five standard deviations (0.34 % each) of 0.95."""
    rng = Random(1)
    held = 0
    for _ in range(4000):
        found = estimate([rng.gauss(3.0, 1.0) for _ in range(5)])
        held += abs(found.mean - 3.0) <= found.half
    assert held / 4000 == pytest.approx(0.95, abs=0.0172)


def test_pairs_show_a_difference_that_their_common_noise_hides() -> None:
    rng = Random(2)
    noise = [rng.uniform(1.0, 3.0) for _ in range(8)]
    best = [100.0 * n for n in noise]
    others = [110.0 * n * rng.uniform(0.99, 1.01) for n in noise]
    assert estimate(others).half > 10.0
    found = ratio(others, best)
    assert found.is_clear
    assert found.middle == pytest.approx(1.1, rel=0.01)
    assert not ratio(best, best).is_clear


def test_several_comparisons_have_wider_intervals() -> None:
    values, best = [3.0, 4.0, 5.0, 6.0], [1.0, 3.0, 2.0, 4.0]
    one, nine = ratio(values, best), ratio(values, best, 9)
    assert nine.low < one.low < one.middle == nine.middle < one.high < nine.high


def test_one_value_says_nothing_of_how_sure_it_is() -> None:
    assert estimate([3.0]).half == inf
    assert not ratio([3.0], [1.0]).is_clear


@pytest.mark.parametrize(
    ("values", "index"),
    [([1.0, 1.0, 1.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25), ([1.0, 3.0], 0.8), ([0.0], 1.0)],
)
def test_jains_index(values: list[float], index: float) -> None:
    assert jain(values) == pytest.approx(index)
