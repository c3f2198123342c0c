"""The fastest of the servers that are not busy, among some that were probed a moment ago.

Wydrowski et al., "Load is not what you should balance: Introducing Prequal" (NSDI 2024,
arXiv 2312.10172). A probe tells a server's requests in flight and its latency; a server is hot if
its requests in flight are above the 0.84 quantile of the probed ones. Of the cold ones the lowest
latency wins: what its answers took of late, times what is in flight now; of equals the last drawn,
which is by weight. (The paper's servers give the latency of requests that met about as many others.
An average alone tells of a queue too late, and all run to whoever was fastest a moment ago; in
proportion to what was in flight then, who has more looks faster, if times do not depend on that.
This one counts a queue twice, and so errs on the side of the less loaded.) There are no messages to
servers here: a probe reads what this balancer knows of a server, the latest times to first byte;
and its own requests in flight are of the very moment of the pick, so the paper's rules against
stale ones (reuse, removal of the worst) have nothing to do. Costs two draws, a sort of 16 and about
20 comparisons a pick. Best for many servers of different speed at high load. Misleads beside other
balancers, whose requests it does not see, and with fewer than about 8 requests a second, when few
are probed.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.balancing.lots import Lots
from hermes_lb.balancing.response_times import PENALTY, ResponseTimes, seconds_after_failure

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request
    from hermes_lb.http import ResponseHead

    # What its answers took, in seconds; when it was probed; who.
    _Probe = tuple[float, float, Server]

# The paper's, section 5: Q_RIF, the size of the pool, and the age at which a probe is dropped.
QUANTILE: Final = 0.84
PROBES: Final = 16
MAX_AGE: Final = 1.0  # seconds
# A request. The paper's experiments have 3; probes cost time here, and are never out of date.
_PROBES_A_PICK: Final = 2
# How much of a server's latency one answer decides: lengths vary by more than servers do.
_SHARE: Final = 0.1


class Probed(NamedTuple):
    """One of the servers that a pick compared."""

    server: Server
    latency: float  # by its probe, in seconds
    load: float  # in flight, for its weight where weights differ
    at: float  # when it was probed, in seconds


class Prequal:
    """`tau`: for how long a server's latency is believed without a new answer, in seconds."""

    def __init__(self, tau: float = 10.0) -> None:
        self._tau = tau
        self._lots = Lots()
        self._times = ResponseTimes()
        self._up: list[Server] = []
        self._probes: dict[Server, _Probe] = {}  # the oldest first
        self._latencies: dict[Server, tuple[float, float]] = {}  # seconds, and as of when
        self._limit = inf

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        drawn = self._lots.some(pool, request, now, rng, _PROBES_A_PICK)
        if not drawn or (pool.backups and drawn[0].config.backup):
            return drawn[0] if drawn else None
        if pool.up is not self._up:
            self._up = pool.up
            self._probes.clear()
        self._probe(drawn, now)
        probes = self._probes
        are_equal = pool.weights_are_equal
        if are_equal:
            loads: list[float] = [server.in_flight for server in probes]
        else:
            loads = [server.in_flight / server.weight for server in probes]
        loads.sort()
        place, part = _QUANTILES[len(loads)]
        limit = loads[place]
        if part:
            limit += part * (loads[place + 1] - limit)
        self._limit = limit
        tried = request.tried
        best = _fastest(probes.values(), limit, are_equal)
        if (
            best is not None
            and not best.fails
            and (pool.is_steady or best.can_take(now))
            and best not in tried
        ):
            return best
        able = [p for p in probes.values() if p[2].can_take(now) and p[2] not in tried]
        # Who refuses connections has nothing in flight, and may be the only cold one.
        well = [p for p in able if self._seconds(p[2], now) < PENALTY]
        return (
            _fastest(well, limit, are_equal) or _fastest(well or able, inf, are_equal) or drawn[0]
        )

    def probed(self, pool: Pool) -> tuple[list[Probed], float]:
        """Whom the last pick compared, the oldest probe first, and the load above which one is hot.

        As they were then, if it is asked before the server that was picked is leased.
        """
        are_equal = pool.weights_are_equal
        rows: list[Probed] = []
        for seconds, at, server in self._probes.values():
            load = server.in_flight if are_equal else server.in_flight / server.weight
            rows.append(Probed(server, seconds * (load + 1.0), load, at))
        return rows, self._limit

    def latency(self, server: Server, now: float) -> float:
        """What a request would take now, in seconds.

        0 for a server that nobody knows, or not any more: it is worth a try.
        """
        return self._seconds(server, now) * (server.in_flight / server.weight + 1.0)

    def _seconds(self, server: Server, now: float) -> float:
        if server.fails:
            return seconds_after_failure(server, now)
        known = self._latencies.get(server)
        return 0.0 if known is None or now - known[1] >= self._tau else known[0]

    def forget(self, server: Server) -> None:
        self._latencies.pop(server, None)
        self._probes.pop(server, None)

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        sample = self._times.sample(head.status, seconds)
        known = self._latencies.get(server)
        if known is None or now - known[1] >= self._tau:
            self._latencies[server] = sample, now
        else:
            self._latencies[server] = known[0] + _SHARE * (sample - known[0]), now

    def _probe(self, drawn: list[Server], now: float) -> None:
        """The oldest and the old make room."""
        probes, latencies, tau = self._probes, self._latencies, self._tau
        for server in drawn:
            if server in probes:
                del probes[server]
            elif len(probes) == PROBES:
                del probes[next(iter(probes))]
            if server.fails:  # `_seconds`, without the call
                seconds = seconds_after_failure(server, now)
            else:
                known = latencies.get(server)
                seconds = 0.0 if known is None or now - known[1] >= tau else known[0]
            probes[server] = seconds, now, server
        oldest = next(iter(probes.values()))
        while now - oldest[1] > MAX_AGE:
            del probes[oldest[2]]
            oldest = next(iter(probes.values()))


def _fastest(probes: Iterable[_Probe], limit: float, are_equal: bool) -> Server | None:
    """Of the cold ones, up to the limit; of equals the less loaded, or else the last."""
    best: Server | None = None
    least = lowest = inf
    for seconds, _, server in probes:
        load = server.in_flight if are_equal else server.in_flight / server.weight
        latency = seconds * (load + 1.0)
        if latency <= lowest and load <= limit and (latency < lowest or load <= least):
            best, least, lowest = server, load, latency
    return best


def quantile_place(size: int, share: float) -> tuple[int, float]:
    """Where it is in so many ordered values, from 0, and how far on the way to the next of them.

    Linear between neighbours, so that of few servers too the busiest one is above it. Of (0, 1):
    0.84; of 16 values something between the 13th and the 14th.
    """
    position = share * (size - 1)
    return int(position), position % 1


_QUANTILES: Final = [quantile_place(size, QUANTILE) for size in range(PROBES + 1)]
