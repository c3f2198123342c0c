"""Balancers that know of each other's requests in flight: at once, or as of the last exchange.

At once is what processes of one balancer have (shared memory). An exchange each some seconds is
what separate balancers could have, and shows the herd effect: all of them send to the servers that
were the least loaded a while ago (Mitzenmacher, "How Useful Is Old Information?", 2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.backends import Pool, Server, Waiter
    from hermes_lb.lab.engine import Run


def share_load(run: Run, pools: Sequence[Pool], seconds: float) -> None:
    """Add to each pool's requests in flight those of the others; 0 seconds: at once."""
    views = [_View(pool) for pool in pools]
    for view in views:
        view.others = [other for other in views if other is not view]
        view.is_current = not seconds
        view.pool.peers = view
    if seconds:

        def exchange() -> None:
            for view in views:
                view.look()

        run.each(seconds, exchange)


class _View:
    """One balancer's view of the others (`pool.Peers`)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.others: list[_View] = []
        self.is_current = False
        self._places = {server: place for place, server in enumerate(pool.servers)}
        self._own = [0] * len(pool.servers)
        self._elsewhere = [0] * len(pool.servers)  # included in `in_flight`

    def leased(self, server: Server, change: int) -> None:
        place = self._places[server]
        self._own[place] += change
        if self.is_current:
            for other in self.others:
                other._add(place, change)

    def look(self) -> None:
        """Take the others' leases of this moment."""
        for place, known in enumerate(self._elsewhere):
            now = sum(other._own[place] for other in self.others)
            if now != known:
                self._add(place, now - known)

    def _add(self, place: int, change: int) -> None:
        pool = self.pool
        server = pool.servers[place]
        self._elsewhere[place] += change
        server.in_flight += change
        pool.in_flight += change
        if pool.touched is not None:
            pool.touched.add(server)

    # Limits and queues are each balancer's own here.

    def is_over(self, server: Server) -> bool:
        return server.in_flight > server.max_connections

    def queue_changed(self, pool: Pool, waiter: Waiter, *, joined: bool) -> None:
        """Waiters are not shared."""

    def queue_advanced(self, pool: Pool) -> None:
        """Waiters are not shared."""

    def is_others_turn(self, pool: Pool, server: Server, waiter: Waiter) -> bool:
        return False

    def has_room(self, pool: Pool, server: Server) -> None:
        """Waiters are not shared."""
