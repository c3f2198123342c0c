"""The server with the fewest requests in flight for its weight.

nginx, `ngx_http_upstream_least_conn_module.c`; HAProxy, `balance leastconn` (`lb_fwlc.c`). Equals
take turns by smooth weighted round-robin, so idle servers share by weight. nginx compares by
cross-multiplication; the quotients here order the same, as those of different integers this small
never round to the same float.
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


class LeastConn:
    """The least loaded server; best for requests of very different lengths."""

    def __init__(self) -> None:
        self._kept = Kept(by_load=True)

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
            return next_in_turn(candidates)
        tied = zip(candidates, loads, strict=True)
        return next_in_turn([server for server, load in tied if load == least])
