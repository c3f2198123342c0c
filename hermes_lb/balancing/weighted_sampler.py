"""Random servers in proportion to their weights: O(1), or O(log n) where weights differ.

Rejection sampling: a draw that cannot take the request is repeated, which leaves the shares of the
others correct. Only after many rejections in a row are the candidates listed, in O(n).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.request import Request

# With half of the servers full, one request of 65,536 lists them all.
_DRAWS = 16


class WeightedSampler:
    """Draws from the servers in rotation of one pool."""

    def __init__(self) -> None:
        self._servers: list[Server] = []
        self._sums: list[float] = []  # of the weights up to each server; empty: all weigh the same

    def one(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        """A candidate, by weight; None if there is none."""
        servers = pool.up
        if servers is not self._servers:
            self._prepare(servers)
        if pool.is_steady and not request.tried:
            return servers[self._draw(rng)]
        tried = request.tried
        for _ in range(_DRAWS if servers else 0):
            server = servers[self._draw(rng)]
            if server.can_take(now) and server not in tried:
                return server
        return weighted_choice(pool.candidates(tried, now), rng)

    def some(
        self, pool: Pool, request: Request, now: float, rng: Random, count: int
    ) -> list[Server]:
        """Up to `count` candidates, with repetition; at least one, if there is any."""
        servers = pool.up
        if servers is not self._servers:
            self._prepare(servers)
        drawn: list[Server] = []
        tried = request.tried
        all_can = pool.is_steady and not tried
        random, sums, size = rng.random, self._sums, len(servers)
        for _ in range(count if servers else 0):
            if sums:  # `_draw` without its calls, whose price counts where many are drawn
                server = servers[bisect_right(sums, random() * sums[-1], hi=size - 1)]
            else:
                server = servers[int(random() * size)]
            if all_can or (server.can_take(now) and server not in tried):
                drawn.append(server)
        if not drawn and (one := self.one(pool, request, now, rng)) is not None:
            drawn = [one]
        return drawn

    def two(
        self, pool: Pool, request: Request, now: float, rng: Random
    ) -> tuple[Server, Server] | None:
        """Two candidates by weight, without replacement.

        Twice the same one where there is no other; None if there is none.
        """
        servers = pool.up
        if servers is not self._servers:
            self._prepare(servers)
        if pool.is_steady and not request.tried:
            i = self._draw(rng)
            first = servers[i]
            return first, (servers[self._draw_other(i, rng)] if len(servers) > 1 else first)
        return self._two_that_can(pool, request, now, rng)

    def distinct_two(self, pool: Pool, request: Request, now: float, rng: Random) -> list[Server]:
        """What `two` would return for the same random numbers, without a repetition."""
        return list(dict.fromkeys(self.two(pool, request, now, rng) or ()))

    def _two_that_can(
        self, pool: Pool, request: Request, now: float, rng: Random
    ) -> tuple[Server, Server] | None:
        servers, tried = self._servers, request.tried
        first: Server | None = None
        place = -1
        for _ in range(_DRAWS if len(servers) > 1 else 0):
            i = self._draw(rng) if first is None else self._draw_other(place, rng)
            server = servers[i]
            if server.can_take(now) and server not in tried:
                if first is not None:
                    return first, server
                first, place = server, i
        candidates = pool.candidates(tried, now)
        if first is None:
            first = weighted_choice(candidates, rng)
            if first is None:
                return None
        return first, weighted_choice([s for s in candidates if s is not first], rng) or first

    def _prepare(self, servers: list[Server]) -> None:
        self._servers = servers
        weights = [server.weight for server in servers]
        self._sums = list(accumulate(weights)) if len(set(weights)) > 1 else []

    def _draw(self, rng: Random) -> int:
        """A place in `_servers`."""
        sums = self._sums
        if not sums:
            return int(rng.random() * len(self._servers))
        # `random() * total` may be rounded up to `total`.
        return bisect_right(sums, rng.random() * sums[-1], hi=len(sums) - 1)

    def _draw_other(self, place: int, rng: Random) -> int:
        """Another place: the weight of `place` is cut out of the sums."""
        sums = self._sums
        if not sums:
            other = int(rng.random() * (len(self._servers) - 1))
            return other + (other >= place)
        start = sums[place - 1] if place else 0
        weight = sums[place] - start
        drawn = rng.random() * (sums[-1] - weight)
        return bisect_right(sums, drawn + weight if drawn >= start else drawn, hi=len(sums) - 1)


def weighted_choice(candidates: list[Server], rng: Random) -> Server | None:
    """One of these, by weight, in O(n); None if there is none."""
    if not candidates:
        return None
    sums = list(accumulate(server.weight for server in candidates))
    return candidates[bisect_right(sums, rng.random() * sums[-1], hi=len(sums) - 1)]
