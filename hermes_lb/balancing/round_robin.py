"""Smooth weighted round-robin: 5, 1, 1 gives a a b a c a a.

nginx, `ngx_http_upstream_round_robin.c`: `ngx_http_upstream_get_peer`. Every candidate gains its
effective weight, the richest is picked and pays the sum. The effective weight falls when a server
fails and grows back by one a pick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.turns import Kept, Ranks, Turns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from hermes_lb.balancing.base import Request
    from hermes_lb.pool import Pool, Server


def next_in_turn(candidates: Iterable[Server]) -> Server:
    """The candidate whose turn it is; there must be at least one."""
    total: float = 0
    most: float = 0
    best: Server | None = None
    for server in candidates:
        gain = server.effective_weight
        server.current_weight = credit = server.current_weight + gain
        total += gain
        if credit > most or best is None:
            best, most = server, credit
        if gain != server.weight:
            server.effective_weight = gain + 1
    assert best is not None
    best.current_weight = most - total
    return best


class RoundRobin:
    """Each server in turn, by weight."""

    def __init__(self) -> None:
        self._kept = Kept(_keep)

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        kept = self._kept
        if pool.version != kept.version or request.tried:
            kept.refresh(pool, request.tried)
        if kept.value is not None and (server := kept.value.next()) is not None:
            return server
        candidates = pool.candidates(request.tried, now)
        return next_in_turn(candidates) if candidates else None


def _keep(pool: Pool) -> Turns | Ranks:
    return Turns(enumerate(pool.up)) if pool.is_steady else Ranks(pool, by_load=False)
