"""Means with confidence intervals over independent runs, and paired ratios.

Strategies are compared by common random numbers: each seed's workload is played to all of them, and
the interval is that of the ratios, in which what the workload does to all cancels out.
"""

from __future__ import annotations

from math import copysign, exp, expm1, inf, log, pi, sqrt, tan
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95
_LARGE: Final = 700.0  # its exponential is a float still


class Estimate(NamedTuple):
    mean: float
    half: float  # half of the interval's width; infinite for one value


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Of independent values, by Student's t."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, inf)
    t = t_quantile((1.0 + confidence) / 2.0, len(values) - 1)
    return Estimate(mean, t * stdev(values) / sqrt(len(values)))


class Ratio(NamedTuple):
    """How many times as much, with its interval; infinite or 0 where one value says nothing."""

    middle: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """The interval does not contain 1."""
        return not self.low <= 1.0 <= self.high


def ratio(values: Sequence[float], base: Sequence[float], comparisons: int = 1) -> Ratio:
    """`values` over `base`, pair by pair, all above 0: by the mean of the logarithms.

    With several comparisons the intervals hold together (Bonferroni).
    """
    logarithms = [log(value / other) for value, other in zip(values, base, strict=True)]
    found = estimate(logarithms, 1.0 - (1.0 - CONFIDENCE) / max(1, comparisons))
    high = exp(found.mean + found.half) if found.half < _LARGE else inf
    return Ratio(exp(found.mean), exp(found.mean - min(found.half, _LARGE)), high)


def t_quantile(p: float, freedom: int) -> float:
    """The p-quantile of Student's t: exact for 1 and 2 degrees of freedom, else by Hill's series
    (Communications of the ACM 13, 1970, algorithm 396), whose error is below 1e-3 of it here."""
    if p == 0.5:
        return 0.0
    tail = 2.0 * min(p, 1.0 - p)
    if freedom == 1:
        t = 1.0 / tan(tail * pi / 2.0)
    elif freedom == 2:
        t = sqrt(2.0 / (tail * (2.0 - tail)) - 2.0)
    else:
        t = _hill(tail, freedom)
    return copysign(t, p - 0.5)


def _hill(tail: float, n: int) -> float:
    a = 1.0 / (n - 0.5)
    b = 48.0 / (a * a)
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * sqrt(a * pi / 2.0) * n
    x = d * tail
    y = x ** (2.0 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2.0)
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = a * y * y
        y = y + y * y / 2.0 if y <= 0.002 else expm1(y)
    else:
        y = (
            (1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0))
            * y
            - 1.0
        ) * (n + 1.0) / (n + 2.0) + 1.0 / y
    return sqrt(n * y)


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all are equal, 1/n if one has everything (Jain, Chiu, Hawe,
    1984)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
