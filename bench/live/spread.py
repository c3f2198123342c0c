"""How far a median can be trusted: quartiles, and an interval by the bootstrap."""

from __future__ import annotations

import statistics
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 1000
# From here on a median says more about the machine than about the proxies: half of its interval,
# as a share of it. Ratios that are asked for differ by about a tenth.
LIMIT = 0.1


def quartiles(values: Sequence[float]) -> tuple[float, float] | None:
    """The first and the third (inclusive: never outside of the values); None of fewer than two."""
    if len(values) < 2:
        return None
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % for the median of `values`, by the percentile bootstrap (Efron and Tibshirani, An
    Introduction to the Bootstrap, chapter 13); None of fewer than two. The same values have the
    same interval.
    """
    if len(values) < 2:
        return None
    rng = Random(len(values))
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40 - 1]


def is_wide(values: Sequence[float]) -> bool:
    """Whether the median of `values` is known worse than LIMIT."""
    found = interval(values)
    if found is None:
        return False
    return (found[1] - found[0]) / 2 > LIMIT * abs(statistics.median(values))
