"""The fastest of the servers that are not busy, among some that were probed a moment ago.

Wydrowski et al., "Load is not what you should balance: Introducing Prequal" (NSDI 2024,
arXiv 2312.10172). A probe tells a server's requests in flight and its latency; a server is hot if
its requests in flight are above the 0.84 quantile of the probed ones. Of the cold ones the lowest
latency wins: what its answers took, in proportion to what is in flight now and was then. (The
paper's servers give the latency of requests that met about as many others. An average alone tells
of a queue too late, and all run to whoever was fastest a moment ago.) There are no messages to
servers here: a probe reads what this balancer knows of a server, the latest times to first byte;
and its own requests in flight are of the very moment of the pick, so the paper's rules against
stale ones (reuse, removal of the worst) have nothing to do. Costs two draws, a sort of 16 and about
20 comparisons a pick. Best for many servers of different speed at high load. Misleads beside other
balancers, whose requests it does not see, and with fewer than about 8 requests a second, when few
are probed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.lots import Lots
from hermes_lb.balancing.response_times import ResponseTimes

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.balancing.base import Request
    from hermes_lb.http1 import ResponseHead
    from hermes_lb.pool import Pool, Server

# The paper's, section 5: Q_RIF, the size of the pool, and the age at which a probe is dropped.
QUANTILE: Final = 0.84
PROBES: Final = 16
MAX_AGE: Final = 1.0  # seconds
# A request. The paper's experiments have 3; probes cost time here, and are never out of date.
_PROBES_A_PICK: Final = 2
# How much of a server's latency one answer decides: lengths vary by more than servers do.
_SHARE: Final = 0.1
# Seconds; more than any answer takes: of a server whose connections have failed just now.
_PENALTY: Final = 1e6


class Prequal:
    """`tau`: for how long a server's latency is believed without a new answer, in seconds."""

    def __init__(self, tau: float = 10.0) -> None:
        self._tau = tau
        self._lots = Lots()
        self._times = ResponseTimes()
        self._up: list[Server] = []
        # Latencies for each request in flight, of a server of weight 1; the oldest probe first.
        self._probes: dict[Server, float] = {}
        self._probed_at: dict[Server, float] = {}  # in the same order
        # Seconds, as of when, and how many were in flight beside it.
        self._latencies: dict[Server, tuple[float, float, float]] = {}

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        drawn = self._lots.some(pool, request, now, rng, _PROBES_A_PICK)
        if not drawn or drawn[0].config.backup:
            return drawn[0] if drawn else None
        if pool.up is not self._up:
            self._up = pool.up
            self._probes.clear()
            self._probed_at.clear()
        self._probe(drawn, now)
        probes = self._probes
        if pool.weights_are_equal:
            loads: list[float] = [s.in_flight for s in probes]
        else:
            loads = [s.in_flight / s.weight for s in probes]
        limit = quantile(sorted(loads), QUANTILE)
        all_can = pool.is_steady and not request.tried
        best, least, lowest = drawn[0], float("inf"), float("inf")
        for server, each, load in zip(probes, probes.values(), loads, strict=True):
            latency = each * (load + 1.0)
            if (
                (latency < lowest or (latency == lowest and load < least))
                and load <= limit
                and (all_can or (server.can_take(now) and server not in request.tried))
            ):
                best, least, lowest = server, load, latency
        return best

    def latency(self, server: Server, now: float) -> float:
        """What a request would take now, in seconds.

        0 for a server that nobody knows, or not any more: it is worth a try.
        """
        return self._for_each(server, now) * (server.in_flight / server.weight + 1.0)

    def _for_each(self, server: Server, now: float) -> float:
        known = self._latencies.get(server)
        if known is None or now - known[1] >= self._tau:
            return 0.0
        return known[0] / (known[2] / server.weight + 1.0)

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        sample = self._times.sample(head.status, seconds)
        others = max(0, server.in_flight - 1)
        known = self._latencies.get(server)
        if known is None or now - known[1] >= self._tau:
            self._latencies[server] = sample, now, others
        else:
            latency, _, beside = known
            latency += _SHARE * (sample - latency)
            self._latencies[server] = latency, now, beside + _SHARE * (others - beside)

    def _probe(self, drawn: list[Server], now: float) -> None:
        """The oldest and the old make room."""
        probes, probed_at = self._probes, self._probed_at
        for server in drawn:
            if server in probes:
                del probes[server], probed_at[server]
            probes[server] = _PENALTY if server.fails else self._for_each(server, now)
            probed_at[server] = now
        oldest = next(iter(probes))
        while len(probes) > PROBES or now - probed_at[oldest] > MAX_AGE:
            del probes[oldest], probed_at[oldest]
            oldest = next(iter(probes))


def quantile(ordered: list[float], share: float) -> float:
    """Linear between neighbours, so that of few servers too the busiest one is above it.

    Of (0, 1): 0.84; of 16 values something between the 13th and the 14th.
    """
    position = share * (len(ordered) - 1)
    below = int(position)
    if below + 1 == len(ordered):
        return ordered[below]
    return ordered[below] + (position - below) * (ordered[below + 1] - ordered[below])
