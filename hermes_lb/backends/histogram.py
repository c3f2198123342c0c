"""Counts of observations by upper bound.

Percentiles are read from histograms with `refined` bounds. They follow DDSketch (Masson, Rim and
Lee, VLDB 2019): the upper bound of a bucket is at most `GAMMA` times the lower one, so the value
that `quantiles` reports is at most (GAMMA - 1) / (GAMMA + 1) = 4.8 % away from the observation.
Histograms with the same bounds add up cell by cell, also those of several processes.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from itertools import accumulate, pairwise
from math import ceil, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GAMMA = 1.1


class Histogram:
    """The last cell of `counts` is for what is above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation. A value equal to a bound belongs to it (Prometheus: `le`)."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def move(self, seconds: float, to: float) -> None:
        """Count an observation of `seconds` as one of `to`."""
        self.counts[bisect_left(self.bounds, seconds)] -= 1
        self.counts[bisect_left(self.bounds, to)] += 1
        self.total += to - seconds

    def coarse(self, bounds: tuple[float, ...]) -> Histogram:
        """The same by fewer bounds, each of which is one of its own."""
        upto = list(accumulate(self.counts))
        less = Histogram(bounds)
        picked = [0, *(upto[place] for place in _places(self.bounds, bounds)), upto[-1]]
        less.counts = [after - before for before, after in pairwise(picked)]
        less.total = self.total
        return less

    def __add__(self, other: Histogram) -> Histogram:
        """Both together; they have the same bounds."""
        both = Histogram(self.bounds)
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both

    @property
    def count(self) -> int:
        """Of all observations."""
        return sum(self.counts)

    @property
    def width(self) -> int:
        """How many cells it is."""
        return len(self.bounds) + 2

    def cells(self) -> list[float]:
        return [*self.counts, self.total]

    def load(self, cells: Sequence[float]) -> None:
        """Take the values of another one's `cells`."""
        *counts, self.total = cells
        self.counts[:] = map(int, counts)


def refined(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """These and as many between them that two neighbours are at most `GAMMA` apart."""
    fine = []
    for low, high in pairwise(bounds):
        count = ceil(log(high / low, GAMMA))
        fine += [low * (high / low) ** (n / count) for n in range(count)]
    return (*fine, bounds[-1])


def quantiles(
    bounds: Sequence[float], counts: Sequence[int], wanted: Sequence[float]
) -> list[float]:
    """The values of a histogram that has observations, for ranks from 0 to 1.

    A value is the harmonic mean of its bucket's bounds, as in DDSketch; in the first bucket, which
    begins at 0, it is interpolated; above the last bound it is that bound.
    """
    upto = list(accumulate(counts))
    found = []
    for quantile in wanted:
        rank = quantile * upto[-1]
        bucket = bisect_left(upto, rank)
        if bucket == 0:
            found.append(bounds[0] * rank / counts[0])
        elif bucket == len(bounds):
            found.append(bounds[-1])
        else:
            low, high = bounds[bucket - 1], bounds[bucket]
            found.append(2 * low * high / (low + high))
    return found


@cache
def _places(bounds: tuple[float, ...], picked: tuple[float, ...]) -> tuple[int, ...]:
    """The place of each of `picked` in `bounds`. Both are constants of the code."""
    return tuple(map(bounds.index, picked))
