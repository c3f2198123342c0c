"""Arrivals: when, from which user, and how much work.

Arrivals are open-loop: users do not wait for each other's responses. A workload is generated once
and played to every strategy.
"""

from __future__ import annotations

from array import array
from math import log, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


class Lengths(NamedTuple):
    """A distribution of seconds of work."""

    mean: float
    draw: Callable[[Random], float]
    text: str


class Workload(NamedTuple):
    """Requests in order of arrival, a column each."""

    arrivals: array[float]  # seconds from the start
    firsts: array[float]  # work until the first byte, in seconds
    lengths: array[float]  # all of its work, the first byte included
    users: array[int]  # indices into `addresses`
    addresses: list[str]

    @property
    def horizon(self) -> float:
        """The time of the last arrival."""
        return self.arrivals[-1] if self.arrivals else 0.0


def constant(seconds: float) -> Lengths:
    return Lengths(seconds, lambda _: seconds, f"{seconds:g} s each")


def exponential(mean: float) -> Lengths:
    return Lengths(
        mean, lambda rng: rng.expovariate(1.0 / mean), f"exponential, {mean:g} s on average"
    )


def lognormal(mean: float, variation: float) -> Lengths:
    """`variation`: the standard deviation divided by the mean."""
    square = log(1.0 + variation * variation)
    middle, sigma = log(mean) - square / 2.0, sqrt(square)
    return Lengths(
        mean,
        lambda rng: rng.lognormvariate(middle, sigma),
        f"lognormal, {mean:g} s on average, standard deviation {variation:g} times that",
    )


def pareto(least: float, alpha: float, most: float) -> Lengths:
    """Heavy-tailed: P(longer than x) = (least / x)^alpha; cut at `most`. `alpha` is not 1."""
    whole = least * alpha / (alpha - 1.0)
    mean = whole - least**alpha * most ** (1.0 - alpha) / (alpha - 1.0)
    return Lengths(
        mean,
        lambda rng: min(most, least * rng.paretovariate(alpha)),
        f"Pareto, alpha {alpha:g}, {least:g} to {most:g} s, {mean:.3g} s on average",
    )


def poisson(
    rng: Random,
    requests: int,
    rate: float,
    lengths: Lengths,
    *,
    first: Lengths | None = None,
    users: int = 1000,
) -> Workload:
    """Poisson arrivals, `rate` a second. Without `first` a response comes as a whole, at the end.

    Some users are more active than others: the busiest tenth makes some 22 % of the requests.
    """
    work = Workload(array("d"), array("d"), array("d"), array("L"), addresses(users))
    now = 0.0
    for _ in range(requests):
        now += rng.expovariate(rate)
        rest = lengths.draw(rng)
        until_first = first.draw(rng) if first is not None else rest
        work.arrivals.append(now)
        work.firsts.append(until_first)
        work.lengths.append(until_first + rest if first is not None else rest)
        work.users.append(int(users * rng.random() ** 1.5))
    return work


def addresses(count: int) -> list[str]:
    """Each in a /24 of its own, up to 65,536: `ip_hash` looks at no more."""
    return [f"10.{i >> 8 & 255}.{i & 255}.{i >> 16 & 255}" for i in range(count)]
