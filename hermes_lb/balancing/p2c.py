"""The less loaded of two servers drawn at random.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996): of n requests on n
servers the fullest has about ln ln n, where one draw leaves ln n / ln ln n. Costs two random
numbers and one comparison, however many servers there are. Best for many servers, and beside other
balancers: looking at two only, they do not all run to the one that was least loaded a moment ago.
Misleads with two or three servers, where `leastconn` sees all of them for the same price, and where
in flight says little: a server that fails fast has nothing in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.lots import Lots

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request


class PowerOfTwo:
    """By in flight over weight; of equals the first drawn, so that idle servers share by weight."""

    def __init__(self) -> None:
        self._lots = Lots()

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        drawn = self._lots.two(pool, request, now, rng)
        if drawn is None:
            return None
        first, second = drawn
        if second.load * first.weight < first.load * second.weight:
            return second
        return first
