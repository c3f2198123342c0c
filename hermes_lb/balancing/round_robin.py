"""Smooth weighted round-robin: 5, 1, 1 gives a a b a c a a.

nginx, `ngx_http_upstream_round_robin.c`: `ngx_http_upstream_get_peer`. Every candidate gains its
effective weight, the richest is picked and pays the sum. The effective weight falls when a server
fails and grows back by one a pick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.ranks import Kept
from hermes_lb.balancing.turns import next_in_turn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request


class RoundRobin:
    """Each server in turn, by weight."""

    def __init__(self) -> None:
        self._kept = Kept(by_load=False)

    def leave(self, pool: Pool) -> None:
        self._kept.settle()

    def credits(self, servers: Iterable[Server]) -> dict[Server, float]:
        """What each has of its turns; a pick adds the effective weights first."""
        return self._kept.credits(servers)

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        kept = self._kept
        if pool.version != kept.version:
            kept.refresh(pool)
        ranks = kept.ranks
        if ranks is not None and (server := ranks.next(request.tried, now)) is not None:
            return server
        candidates = pool.candidates(request.tried, now)
        return next_in_turn(candidates) if candidates else None
