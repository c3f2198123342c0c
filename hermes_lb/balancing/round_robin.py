"""Smooth weighted round-robin: 5, 1, 1 gives a a b a c a a.

nginx, `ngx_http_upstream_round_robin.c`: `ngx_http_upstream_get_peer`. Every candidate gains its
effective weight, the richest is picked and pays the sum. The effective weight falls when a server
fails and grows back by one a pick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.in_turn import InTurn
from hermes_lb.balancing.loops import next_by_wrr

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.request import Request


class RoundRobin(InTurn):
    """`balance = "round_robin"`."""

    rule = (
        "each in turn: every candidate gains its weight as credit, the richest is picked "
        "and pays what all have gained"
    )

    by_load = False

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        if pool.version != self._version:
            self._refresh(pool)
        heap = self._heap
        if heap is not None and (server := heap.next(request.tried, now)) is not None:
            return server
        candidates = pool.candidates(request.tried, now)
        return next_by_wrr(candidates) if candidates else None
