"""Any server, by weight.

The textbook's balls into bins: of n requests on n servers the fullest has about ln n / ln ln n
(Raab and Steger, "Balls into Bins", 1998). It costs one random number. Best for many
short requests, and for several balancers that know nothing of each other: they never march in step.
Misleads where requests are long or few: chance piles them up, and nothing takes note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.lots import Lots

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request


class AtRandom:
    """`balance = "random"`."""

    def __init__(self) -> None:
        self._lots = Lots()

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        return self._lots.one(pool, request, now, rng)
