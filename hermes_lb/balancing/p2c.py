"""The less loaded of two servers drawn at random.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996): of n requests on n
servers the fullest has about ln ln n, where one draw leaves ln n / ln ln n. Costs two random
numbers and one comparison, however many servers there are. Best for many servers, and beside other
balancers: comparing only two, they do not all pick the one that was least loaded a moment ago.
Misleads with two or three servers, where `leastconn` compares all of them at the same cost, and
where requests in flight say little: a server that fails fast has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.base import NO_OPTIONS, Strategy, StrategyOptions
from hermes_lb.balancing.explanation import Explanation, drawn, for_weight
from hermes_lb.balancing.weighted_sampler import WeightedSampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request


class PowerOfTwo(Strategy):
    """By in flight over weight; of equals the first drawn, so that idle servers share by weight."""

    rule = "the less loaded of two that were drawn, of equals the first"

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        self._sampler = WeightedSampler()

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        two = self._sampler.two(pool, request, now, rng)
        if two is None:
            return None
        first, second = two
        if second.load * first.weight < first.load * second.weight:
            return second
        return first

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        servers = self._sampler.distinct_two(view.pool, view.request, view.now, view.rng)
        loads = [server.load / server.weight for server in servers]

        def explanation(picked: Server) -> Explanation:
            rows = [(s, for_weight(load, s)) for s, load in zip(servers, loads, strict=True)]
            if len(rows) == 1:
                because = "is the only one that can"
            elif loads[0] == loads[1]:
                because = "was drawn first, and the other has as much"
            else:
                because = "is the less loaded"
            return Explanation(rows, because, drawn(servers))

        return explanation
