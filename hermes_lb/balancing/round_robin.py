"""Smooth weighted round-robin: 5, 1, 1 gives a a b a c a a.

nginx, `ngx_http_upstream_round_robin.c`: `ngx_http_upstream_get_peer`. Every candidate gains its
effective weight, the richest is picked and pays the sum. The effective weight falls when a server
fails and grows back by one a pick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.base import NO_OPTIONS, Strategy, StrategyOptions
from hermes_lb.balancing.explanation import explain_turns
from hermes_lb.balancing.load_heap import LoadHeapCache
from hermes_lb.balancing.smooth_wrr import next_by_wrr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import Explanation, View
    from hermes_lb.balancing.request import Request


class RoundRobin(Strategy):
    """`balance = "round_robin"`."""

    rule = (
        "each in turn: every candidate gains its weight as credit, the richest is picked "
        "and pays what all have gained"
    )

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        self._cache = LoadHeapCache(by_load=False)

    def detach(self, pool: Pool) -> None:
        self._cache.settle()

    def credits(self, servers: Iterable[Server]) -> dict[Server, float]:
        """The credit of each before a pick, which adds the effective weights first."""
        return self._cache.credits(servers)

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        cache = self._cache
        if pool.version != cache.version:
            cache.refresh(pool)
        heap = cache.heap
        if heap is not None and (server := heap.next(request.tried, now)) is not None:
            return server
        candidates = pool.candidates(request.tried, now)
        return next_by_wrr(candidates) if candidates else None

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        explanation = explain_turns(view, self.credits, by_load=False)
        return lambda picked: explanation
