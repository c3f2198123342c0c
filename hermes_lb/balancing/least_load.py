"""The server that says that it has the least to do.

A worker puts `X-Hermes-Load: 3.5` into its responses: what it has to do, counted in requests, from
whomever they come. Between two reports what this balancer sends and what it gets back is added and
taken off, so that a report need not be fresh to be of use; a server without one counts by its
requests in flight. Of up to eight servers drawn at random the least loaded for its weight is taken:
with more servers, all balancers would run to the one that reported the least (Mitzenmacher, "How
Useful Is Old Information?", 2000). Costs eight draws, whatever the number of servers. Best beside
other balancers, and for workers that have work of their own. Misleads if workers count differently,
or if reports come much more seldom than loads change.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.lots import Lots, any_of

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request
    from hermes_lb.http import ResponseHead

HEADER: Final = b"x-hermes-load"
COMPARED: Final = 8
# 17 digits of a fraction are what a computed float may have: 0.30000000000000004.
_NUMBER = re.compile(rb"\d{1,9}(?:\.\d{1,20})?").fullmatch


def load_from(text: bytes) -> float | None:
    """What a server says that it has to do, in requests; None for all but digits and a fraction."""
    return float(text) if _NUMBER(text) else None


class LeastLoad:
    """`tau`: for how long a report is believed, in seconds."""

    def __init__(self, tau: float = 10.0) -> None:
        self._tau = tau
        self._lots = Lots()
        # Of each server: what it has to do beside our requests, and when it said so.
        self._elsewhere: dict[Server, tuple[float, float]] = {}

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        if len(pool.up) > COMPARED:
            drawn = self._lots.some(pool, request, now, rng, COMPARED)
            loads = self._by_weight(drawn, now)
            return drawn[loads.index(min(loads))] if drawn else None
        candidates = pool.candidates(request.tried, now)
        loads = self._by_weight(candidates, now)
        least = min(loads, default=0.0)
        equals = [s for s, load in zip(candidates, loads, strict=True) if load == least]
        return any_of(equals, rng)

    def load(self, server: Server, now: float) -> float:
        """In requests, from all sides."""
        return self._by_weight([server], now)[0] * server.weight

    def _by_weight(self, servers: list[Server], now: float) -> list[float]:
        """The load of each for its weight; written for speed, as it is most of a pick."""
        elsewhere, tau = self._elsewhere, self._tau
        loads: list[float] = []
        for server in servers:
            load: float = server.in_flight + server.queued  # `server.load`, without the call
            known = elsewhere.get(server)
            if known is not None and now - known[1] < tau:
                load += known[0]
                if load < 0.0:
                    load = 0.0
            loads.append(load / server.weight)
        return loads

    def forget(self, server: Server) -> None:
        self._elsewhere.pop(server, None)

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        """Note what the server reports, if it does."""
        for name, value in head.fields():
            if len(name) == len(HEADER) and name.lower() == HEADER:
                if (load := load_from(value)) is not None:
                    self.reported(server, load, now)
                return

    def reported(self, server: Server, load: float, now: float) -> None:
        """The server says that it has so much to do, this balancer's requests included."""
        self._elsewhere[server] = (load - server.in_flight, now)
