"""Counts of observations by upper bound."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
