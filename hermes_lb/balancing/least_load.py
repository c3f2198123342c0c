"""The server that reports the least load.

A worker puts `X-Hermes-Load: 3.5` into its responses: its load in requests, from all clients.
Between two reports the requests that this balancer sends are added and those that end subtracted,
so that a report need not be fresh to be of use; a server without one counts by its requests in
flight. Of up to eight servers drawn at random the least loaded for its weight is taken:
with more servers, all balancers would pick the one that reported the least (Mitzenmacher, "How
Useful Is Old Information?", 2000). Costs eight draws, whatever the number of servers. Best beside
other balancers, and for workers that have work of their own. Misleads if workers count differently,
or if loads change much faster than reports come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.base import LEARNER_DEFAULTS, Learner, LearnerOptions
from hermes_lb.balancing.explanation import Explanation, drawn, for_weight
from hermes_lb.balancing.weighted_sampler import WeightedSampler, weighted_choice
from hermes_lb.http.load_report import LOAD_FIELD, parse_load

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request
    from hermes_lb.http import ResponseHead

COMPARED: Final = 8


class LeastLoad(Learner):
    """`balance = "least_load"`."""

    rule = (
        "the least load for its weight, as servers report it, of all up to "
        f"{COMPARED} servers, or else of {COMPARED} drawn"
    )

    def __init__(self, options: LearnerOptions = LEARNER_DEFAULTS) -> None:
        self._tau: float = options.tau  # how long a report is used
        self._sampler = WeightedSampler()
        # Of each server: its load from elsewhere, beside our requests, and when it was reported.
        self._elsewhere: dict[Server, tuple[float, float]] = {}

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        if len(pool.up) > COMPARED:
            some = self._sampler.some(pool, request, now, rng, COMPARED)
            loads = self._by_weight(some, now)
            return some[loads.index(min(loads))] if some else None
        candidates = pool.candidates(request.tried, now)
        loads = self._by_weight(candidates, now)
        least = min(loads, default=0.0)
        equals = [s for s, load in zip(candidates, loads, strict=True) if load == least]
        return weighted_choice(equals, rng)

    def load(self, server: Server, now: float) -> float:
        """In requests, from this balancer and elsewhere."""
        return self._by_weight([server], now)[0] * server.weight

    def _by_weight(self, servers: list[Server], now: float) -> list[float]:
        """The load of each for its weight; written for speed, as it is most of a pick."""
        elsewhere, tau = self._elsewhere, self._tau
        loads: list[float] = []
        for server in servers:
            load = 0.0 + server.in_flight + server.queued  # `server.load`, without the call
            known = elsewhere.get(server)
            if known is not None and now - known[1] < tau:
                load += known[0]
                if load < 0.0:
                    load = 0.0
            loads.append(load / server.weight)
        return loads

    def figure(self, server: Server, now: float) -> str:
        return f", load {self.load(server, now):g}"

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        is_drawn = len(view.pool.up) > COMPARED
        if is_drawn:
            some = self._sampler.some(view.pool, view.request, view.now, view.rng, COMPARED)
            servers = list(dict.fromkeys(some))
        else:
            servers = list(view.candidates)

        def explanation(picked: Server) -> Explanation:
            loads = dict(zip(servers, self._by_weight(servers, view.now), strict=True))
            order = sorted(servers, key=lambda s: loads[s])
            ties = sum(load == loads[order[0]] for load in loads.values())
            if ties == 1:
                because = "is the least loaded"
            elif is_drawn:
                because = f"was drawn first of the {ties} least loaded"
            else:
                because = f"was drawn by lot from the {ties} least loaded"
            rows = [(s, self.figure(s, view.now) + for_weight(loads[s], s)) for s in order]
            return Explanation(rows, because, drawn(servers) if is_drawn else "")

        return explanation

    def forget(self, server: Server) -> None:
        self._elsewhere.pop(server, None)

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        """Take the load from the head, if it reports one."""
        for name, value in head.fields():
            if len(name) == len(LOAD_FIELD) and name.lower() == LOAD_FIELD:
                if (load := parse_load(value)) is not None:
                    self.load_reported(server, load, now)
                return

    def load_reported(self, server: Server, load: float, now: float) -> None:
        """`load` includes this balancer's requests."""
        self._elsewhere[server] = (load - server.in_flight, now)
