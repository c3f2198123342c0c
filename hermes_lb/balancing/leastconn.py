"""The server with the fewest requests in flight for its weight.

nginx, `ngx_http_upstream_least_conn_module.c`; HAProxy, `balance leastconn` (`lb_fwlc.c`). Equals
take turns by smooth weighted round-robin, so idle servers share by weight. nginx compares by
cross-multiplication; the quotients here order the same, as those of different integers this small
never round to the same float.
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


class LeastConn(Strategy):
    """`balance = "leastconn"`; best for requests of very different lengths."""

    rule = (
        "the fewest in flight for its weight; of equals the one whose turn it is: each of "
        "them gains its weight as credit, the richest is picked and pays what all have gained"
    )

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        self._cache = LoadHeapCache(by_load=True)

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
        if not candidates:
            return None
        if pool.weights_are_equal:
            loads: list[float] = [server.in_flight + server.queued for server in candidates]
        else:
            loads = [(server.in_flight + server.queued) / server.weight for server in candidates]
        least = min(loads)
        ties = loads.count(least)
        if ties == 1:
            return candidates[loads.index(least)]
        if ties == len(loads):
            return next_by_wrr(candidates)
        tied = zip(candidates, loads, strict=True)
        return next_by_wrr([server for server, load in tied if load == least])

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        explanation = explain_turns(view, self.credits, by_load=True)
        return lambda picked: explanation
