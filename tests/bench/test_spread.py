"""Medians, quartiles and intervals of a run, and when they support no verdict."""

from __future__ import annotations

import statistics
from random import Random
from typing import TYPE_CHECKING

import pytest

from bench.live.cases.base import Sample
from bench.live.requirements import judge
from bench.live.results import Results
from bench.live.spread import interval, is_wide, quartiles

if TYPE_CHECKING:
    from collections.abc import Sequence


def gets(values: dict[str, Sequence[float]], foreign: float = 0.0) -> Results:
    """Small GETs a second by peer, one for each round."""
    results = Results()
    for peer, each in values.items():
        for number, value in enumerate(each, 1):
            sample = Sample({"per_second": value, "foreign": foreign})
            results.add("get", peer, sample, number)
    return results


def is_met(results: Results) -> bool | None:
    return next(each for each in judge(results) if each.requirement.title == "small GET").is_met


def test_quartiles() -> None:
    assert quartiles([1, 2, 3, 4, 5]) == (2, 4)
    assert quartiles([7]) is None


def test_the_interval_covers_the_median_of_the_population() -> None:
    """In 95 of 100 draws; the percentile bootstrap of 15 values is not exact."""
    rng = Random(1)
    covered = 0
    for _ in range(200):
        found = interval([rng.gauss(10.0, 1.0) for _ in range(15)])
        assert found is not None
        covered += found[0] <= 10.0 <= found[1]
    assert 180 <= covered <= 198


def test_the_interval_of_equal_values_is_their_value() -> None:
    assert interval([3.0] * 5) == (3.0, 3.0)
    assert interval([3.0]) is None


@pytest.mark.parametrize(
    ("values", "wide"),
    [([1.0, 1.01, 0.99, 1.0], False), ([1.0, 2.0, 0.5, 1.5], True), ([1.0], False)],
)
def test_a_wide_interval(values: list[float], wide: bool) -> None:
    assert is_wide(values) is wide


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was twice as fast in the second round, and one peer has no third."""
    results = gets({"hermes_lb": [90.0, 180.0], "haproxy": [100.0, 200.0, 50.0]})
    assert results.ratios("get", "hermes_lb", "per_second", "haproxy") == [0.9, 0.9]
    assert results.ratio("get", "hermes_lb", "per_second", "haproxy") == 0.9


def test_peers_are_in_the_order_that_is_asked_for() -> None:
    results = Results(["a", "b"])
    for peer in ("c", "b", "a"):
        results.add("get", peer, Sample({}))
    assert results.peers("get") == ["a", "b", "c"]


def test_a_record_can_be_read_again() -> None:
    results = gets({"hermes_lb": [1.0, 2.0], "haproxy": [2.0, 4.0]})
    again = Results.from_json(results.to_json())
    assert again.to_json() == results.to_json()


HAPROXY = [100.0, 101.0, 99.0, 100.0]


@pytest.mark.parametrize(
    ("ours", "foreign", "expected"),
    [
        ([95.0, 94.0, 96.0, 95.0], 0.0, True),
        ([85.0, 84.0, 86.0, 85.0], 0.0, False),
        ([95.0, 40.0, 180.0, 95.0], 0.0, None),  # spread
        ([95.0, 94.0, 96.0, 95.0], 0.2, None),  # others used the cores
    ],
)
def test_a_noisy_run_supports_no_verdict(
    ours: list[float], foreign: float, expected: bool | None
) -> None:
    results = gets({"hermes_lb": ours, "haproxy": HAPROXY}, foreign)
    assert statistics.median(results.ratios("get", "hermes_lb", "per_second", "haproxy")) > 0.8
    assert is_met(results) is expected
