"""Arrivals: when, from which user, and how much work.

Users do not wait for each other's responses. In an open loop all arrivals have their times; in a
closed one (`followers`) a session's next request comes a pause after another one has ended. A
workload is generated once and played to every strategy.
"""

from __future__ import annotations

from array import array
from math import log, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from random import Random

    Blocks = tuple[range, ...]


class Lengths(NamedTuple):
    """A distribution of seconds of work."""

    mean: float
    draw: Callable[[Random], float]
    text: str


class Tokens(NamedTuple):
    """What requests are to a language model, a column each."""

    inputs: array[int]
    outputs: array[int]
    blocks: Sequence[Blocks]  # of the input, by number, from its start: equal numbers, equal prefix

    def prefix(self, number: int) -> int:
        """A number that the calls with the same own prefix share; 0: none is known."""
        blocks = self.blocks[number]
        return blocks[-1].start if blocks else 0


class Workload(NamedTuple):
    """Requests in order of arrival, a column each."""

    arrivals: array[float]  # seconds from the start; NaN where it follows another request
    firsts: array[float]  # work until the first byte, in seconds
    lengths: array[float]  # all of its work, the first byte included
    users: array[int]  # indices into `addresses`
    addresses: list[str]
    #: Requests that arrive by themselves, in order; None: all.
    own: Sequence[int] | None = None
    #: By request: those that come after its end, and the seconds between.
    followers: Mapping[int, Iterable[tuple[int, float]]] | None = None
    tokens: Tokens | None = None

    @property
    def heads(self) -> Sequence[int]:
        """Requests that arrive by themselves, in order."""
        return range(len(self.arrivals)) if self.own is None else self.own

    @property
    def horizon(self) -> float:
        """The time of the last arrival that follows nothing."""
        heads = self.heads
        return self.arrivals[heads[-1]] if heads else 0.0


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
