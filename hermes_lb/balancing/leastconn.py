"""The server with the fewest requests in flight for its weight.

nginx, `ngx_http_upstream_least_conn_module.c`; HAProxy, `balance leastconn` (`lb_fwlc.c`). Equals
take turns by smooth weighted round-robin, so idle servers share by weight. nginx compares by
cross-multiplication; the quotients here order the same, as those of different integers this small
never round to the same float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.balancing.in_turn import InTurn
from hermes_lb.balancing.loops import least_loaded

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.request import Request


class LeastConn(InTurn):
    """`balance = "leastconn"`; best for requests of very different lengths."""

    rule = (
        "the fewest in flight for its weight; of equals the one whose turn it is: each of "
        "them gains its weight as credit, the richest is picked and pays what all have gained"
    )

    by_load = True

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        if pool.version != self._version:
            self._refresh(pool)
        heap = self._heap
        if heap is not None and (server := heap.next(request.tried, now)) is not None:
            return server
        candidates = pool.candidates(request.tried, now)
        return least_loaded(candidates) if candidates else None
