"""Percentiles of histograms: their error is bounded, and they add up over processes."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import add

from hypothesis import example, given
from hypothesis import strategies as st

from hermes_lb.backends import Histogram
from hermes_lb.backends.counters import FINE_BOUNDS, LATENCY_BOUNDS, RequestCounters
from hermes_lb.backends.histogram import GAMMA, quantiles, refined
from hermes_lb.backends.statistics import add_up

WANTED = (0.0, 0.5, 0.95, 0.99, 1.0)
seconds = st.floats(0.001, 7200.0, exclude_min=True)


def of(values: list[float], bounds: tuple[float, ...] = FINE_BOUNDS) -> Histogram:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram


def ranked(values: list[float], quantile: float) -> float:
    """The nearest rank."""
    return sorted(values)[max(0, -int(-quantile * len(values) // 1) - 1)]


@given(st.lists(seconds, min_size=1, max_size=200))
@example([31.0] * 100)
@example([FINE_BOUNDS[0] * 1.0000001])
@example([7200.0])
def test_each_percentile_from_1_ms_to_2_h_has_an_error_below_5_percent(values: list[float]) -> None:
    found = quantiles(FINE_BOUNDS, of(values).counts, WANTED[1:])
    assert found == sorted(found)
    for quantile, estimate in zip(WANTED[1:], found, strict=True):
        real = ranked(values, quantile)
        assert abs(estimate - real) / real < 0.05


def test_all_requests_at_31_s_show_31_s() -> None:
    found = quantiles(FINE_BOUNDS, of([31.0] * 1000).counts, (0.5, 0.95, 0.99))
    assert [round(value) for value in found] == [31, 31, 31]


def test_the_number_of_bounds_is_small_and_each_bound_of_the_metrics_is_one() -> None:
    assert len(FINE_BOUNDS) == 180
    assert set(LATENCY_BOUNDS) <= set(FINE_BOUNDS)
    assert all(low < high <= low * GAMMA * (1 + 1e-9) for low, high in pairwise(FINE_BOUNDS))
    assert (FINE_BOUNDS[0], FINE_BOUNDS[-1]) == (0.001, 7200.0)
    assert refined((1.0, 1.05)) == (1.0, 1.05)


def test_outside_of_the_bounds() -> None:
    assert quantiles((1.0, 2.0), [4, 0, 0], (0.5,)) == [0.5]  # interpolated from 0
    assert quantiles((1.0, 2.0), [0, 0, 3], (0.5,)) == [2.0]
    assert quantiles((1.0, 2.0), [1, 0, 1], (0.5, 0.99)) == [1.0, 2.0]


@given(st.lists(st.lists(seconds, max_size=20), min_size=1, max_size=4))
def test_those_of_several_processes_add_up(parts: list[list[float]]) -> None:
    rows = []
    for values in parts:
        counters = RequestCounters()
        counters.latency = of(values)
        rows.append(counters.cells())
    together = RequestCounters()
    together.load(add_up(rows))
    whole = of([value for values in parts for value in values])
    assert together.latency.counts == whole.counts
    assert reduce(add, map(of, parts)).counts == whole.counts


@given(st.lists(st.floats(0.0, 9000.0), max_size=50))
def test_fewer_bounds_count_the_same(values: list[float]) -> None:
    coarse, fine = of(values).coarse(LATENCY_BOUNDS), of(values)
    assert coarse.counts == of(values, LATENCY_BOUNDS).counts
    assert (coarse.total, coarse.count) == (fine.total, fine.count)
