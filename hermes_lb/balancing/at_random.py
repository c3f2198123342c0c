"""A random server, by weight.

Balls into bins: of n requests on n servers the fullest has about ln n / ln ln n (Raab and Steger,
"Balls into Bins", 1998). It costs one random number. Best for many short requests, and for several
balancers that do not share their load: they never act in step. Misleads where requests are long or
few: chance piles them up, and the pick does not look at loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.base import NO_OPTIONS, Strategy, StrategyOptions
from hermes_lb.balancing.explanation import Explanation, drawn
from hermes_lb.balancing.weighted_sampler import WeightedSampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request


class AtRandom(Strategy):
    """`balance = "random"`."""

    rule = "one draw, by weight, whatever the loads are"

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        self._sampler = WeightedSampler()

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        return self._sampler.one(pool, request, now, rng)

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        one = self._sampler.one(view.pool, view.request, view.now, view.rng)
        servers = [one] if one else []
        return lambda picked: Explanation([(s, "") for s in servers], "was drawn", drawn(servers))
