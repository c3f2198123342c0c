"""Why a server was picked: the numbers that the strategy looked at, for one request.

It looks with the strategy's own public functions, and draws from a copy of the random numbers; the
run goes on as if nobody had looked.
"""

from __future__ import annotations

from math import ceil
from random import Random
from typing import TYPE_CHECKING

from hermes_lb.balancing import (
    AtRandom,
    ConsistentHash,
    IpHash,
    LeastConn,
    LeastLoad,
    Maglev,
    PeakEwma,
    PowerOfTwo,
    Prequal,
    RoundRobin,
)
from hermes_lb.balancing.least_load import COMPARED
from hermes_lb.balancing.lots import Lots
from hermes_lb.balancing.turns import FEW
from hermes_lb.config import StrategyOptions

if TYPE_CHECKING:
    from hermes_lb.lab.engine import Job, Run
    from hermes_lb.pool import Server

_MOST_ROWS = 12

_RULES: dict[type, str] = {
    RoundRobin: "each in turn: every candidate gains its weight, the richest is picked and pays",
    LeastConn: "the fewest in flight; of equals the one whose turn it is",
    IpHash: "the hash of the client's network, whatever the loads are",
    AtRandom: "one draw, whatever the loads are",
    ConsistentHash: "the key's own server, or the next on the ring while one is over the bound",
    Maglev: "the key's own server, or its next entry while one is over the bound",
    PowerOfTwo: "the less loaded of two that were drawn",
    PeakEwma: "the lower cost (average time to first byte x what is in flight) of two drawn",
    Prequal: "the lowest latency of those probed that are not busy",
    LeastLoad: "the least load, as servers report it, of those drawn",
}


class Why:
    """Watches a run for the request of this number, from 0; `lines` explain its first pick."""

    def __init__(self, run: Run, number: int) -> None:
        self.lines: list[str] = []
        self._run = run
        self._number = number
        self._done = False
        run.before_pick = self._before
        run.after_pick = self._after

    def _before(self, job: Job, now: float) -> None:
        if job.number != self._number or self._done:
            return
        pool, strategy = self._run.pool, self._run.strategy
        candidates = pool.candidates(job.tried, now)
        self.lines.append(_RULES[type(strategy)])
        self.lines.append(
            f"at {now:.3f} s, request {job.number + 1} from {job.client_address}: "
            f"{len(candidates)} of {len(pool.servers)} servers can take it, "
            f"{pool.in_flight} in flight"
        )
        drawn = self._drawn(job, now)
        if drawn:
            self.lines.append("drawn: " + " ".join(server.name for server in drawn))
        self.lines += self._of_the_key(job, now)
        shown = (drawn or candidates) if len(candidates) > _MOST_ROWS else candidates
        self.lines += [self._numbers(server, now) for server in shown[:_MOST_ROWS]]
        if len(shown) > _MOST_ROWS:
            self.lines.append(f"... and {len(shown) - _MOST_ROWS} more")

    def _after(self, job: Job, server: Server | None) -> None:
        if job.number == self._number and not self._done:
            self._done = True
            self.lines.append(f"picked: {server.name if server else 'nobody; it waits'}")

    def _drawn(self, job: Job, now: float) -> list[Server]:
        run = self._run
        rng = Random()
        rng.setstate(run.rng.getstate())
        lots, pool, strategy = Lots(), run.pool, run.strategy
        if isinstance(strategy, AtRandom):
            one = lots.one(pool, job, now, rng)
            return [one] if one else []
        if isinstance(strategy, PowerOfTwo | PeakEwma):
            return list(lots.two(pool, job, now, rng) or ())
        if isinstance(strategy, Prequal):
            return lots.some(pool, job, now, rng, 2)
        if isinstance(strategy, LeastLoad) and len(pool.up) > COMPARED:
            return lots.some(pool, job, now, rng, COMPARED)
        return []

    def _of_the_key(self, job: Job, now: float) -> list[str]:
        """Where the key belongs if loads are left out of it."""
        run = self._run
        strategy = run.strategy
        if not isinstance(strategy, ConsistentHash | Maglev):
            return []
        unbounded = type(strategy)("client", 0.0)
        home = unbounded.pick(run.pool, job, now, Random(0))
        if home is None:
            return []
        factor = StrategyOptions().load_factor
        bound = ceil(factor * (run.pool.in_flight + 1) / max(1, len(run.pool.up)))
        return [
            f"the key belongs to {home.name}, which has {home.in_flight} in flight; "
            f"the bound for equal servers is {bound}"
        ]

    def _numbers(self, server: Server, now: float) -> str:
        strategy = self._run.strategy
        text = f"  {server.name:<6} {server.in_flight} in flight, weight {server.weight}"
        if server.queued:
            text += f", {server.queued} queued"
        if server.fails:
            text += f", {server.fails} failures"
        if isinstance(strategy, RoundRobin | LeastConn) and len(self._run.pool.up) <= FEW:
            text += f", credit {server.current_weight}"
        elif isinstance(strategy, PeakEwma):
            text += f", cost {strategy.cost(server, now):.4g} s"
        elif isinstance(strategy, Prequal):
            text += f", latency {strategy.latency(server, now):.4g} s"
        elif isinstance(strategy, LeastLoad):
            text += f", load {strategy.load(server, now):g}"
        return text
