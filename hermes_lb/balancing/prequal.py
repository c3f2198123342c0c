"""The fastest of the servers that are not busy, among those that were probed recently.

Wydrowski et al., "Load is not what you should balance: Introducing Prequal" (NSDI 2024,
arXiv 2312.10172). A probe gives a server's requests in flight and its latency; a server is hot if
its requests in flight are above the 0.84 quantile of the probed ones. Of the cold ones the lowest
latency wins: its recent times to first byte x its requests in flight now; of equals the last
drawn, which is by weight. (The paper's servers report the latency of requests that met about as
many others. An average alone shows a queue too late, and all requests go to the server that was
fastest a moment ago; divided by the requests that were in flight then, the busier server looks
faster, if times do not depend on them. This one counts a queue twice, and so errs on the side of
the less loaded.) There are no messages to servers here: a probe reads what this balancer knows of a
server, the latest times to first byte; and its own requests in flight are those at the time of the
pick, so the paper's rules against stale probes (reuse, removal of the worst) do not apply. Costs
two draws, a sort of 16 and about 20 comparisons a pick. Best for many servers of different speed at
high load. Misleads beside other balancers, whose requests it does not see, and with fewer than
about 8 requests a second, when few are probed.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.balancing.base import LEARNER_DEFAULTS, Learner, LearnerOptions
from hermes_lb.balancing.explanation import Explanation, for_weight, hindrance
from hermes_lb.balancing.response_times import (
    PENALTY,
    ResponseTimes,
    seconds_after_failure,
    seconds_in_words,
)
from hermes_lb.balancing.weighted_sampler import WeightedSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request
    from hermes_lb.http import ResponseHead

    # Time to first byte, in seconds; when it was probed; the server.
    _Probe = tuple[float, float, Server]

# The paper's, section 5: Q_RIF, the size of the pool, and the age at which a probe is dropped.
QUANTILE: Final = 0.84
PROBES: Final = 16
MAX_AGE: Final = 1.0  # seconds
# A request. The paper's experiments have 3; probes cost time here, and are never out of date.
_PROBES_A_PICK: Final = 2
# The weight of one answer in a server's average: requests differ by more than servers do.
_SHARE: Final = 0.1


class Probed(NamedTuple):
    """One of the servers that a pick compared."""

    server: Server
    latency: float  # by its probe, in seconds
    load: float  # in flight, for its weight where weights differ
    at: float  # when it was probed, in seconds


class Prequal(Learner):
    """`balance = "prequal"`."""

    rule = (
        "of those probed that are not hot the lowest latency; "
        "latency = average time to first byte x (in flight for its weight + 1)"
    )

    def __init__(self, options: LearnerOptions = LEARNER_DEFAULTS) -> None:
        self._tau: float = options.tau  # how long a server's latency is used without a new answer
        self._sampler = WeightedSampler()
        self._times = ResponseTimes()
        self._up: list[Server] = []
        self._probes: dict[Server, _Probe] = {}  # the oldest first
        self._latencies: dict[Server, tuple[float, float]] = {}  # seconds, and as of when
        self._limit = inf

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        drawn = self._sampler.some(pool, request, now, rng, _PROBES_A_PICK)
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
        # A server that refuses connections has nothing in flight, and may be the only cold one.
        well = [p for p in able if self._seconds(p[2], now) < PENALTY]
        return (
            _fastest(well, limit, are_equal) or _fastest(well or able, inf, are_equal) or drawn[0]
        )

    def probed(self, pool: Pool) -> tuple[list[Probed], float]:
        """What the last pick compared, the oldest probe first, and the load above which one is hot.

        Call it before the picked server is leased, which changes its load.
        """
        are_equal = pool.weights_are_equal
        rows: list[Probed] = []
        for seconds, at, server in self._probes.values():
            load = server.in_flight if are_equal else server.in_flight / server.weight
            rows.append(Probed(server, seconds * (load + 1.0), load, at))
        return rows, self._limit

    def figure(self, server: Server, now: float) -> str:
        return ", latency " + seconds_in_words(
            self.latency(server, now), server.in_flight / server.weight
        )

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        return lambda picked: self._explanation(view, picked)

    def _explanation(self, view: View, picked: Server) -> Explanation:
        probed, limit = self.probed(view.pool)
        kinds = {row.server: _kind(row, limit, view) for row in probed}
        if picked not in kinds:
            return Explanation([(picked, "")], "was drawn: no primary can take it")
        places = {row.server: place for place, row in enumerate(probed)}
        order = sorted(
            probed, key=lambda r: (kinds[r.server], r.latency, r.load, -places[r.server])
        )
        rows = [(row.server, _in_words(row, limit, view)) for row in order]
        best = probed[places[picked]]
        because = {
            (False, False, False): "has the lowest latency of those that are not hot",
            (False, False, True): "has the lowest latency: all that can take it are hot",
            (False, True, False): "has the lowest latency: all that can take it have failed",
        }.get(kinds[picked], "was drawn")
        equals = [r for r in order if (kinds[r.server], r.latency) == (kinds[picked], best.latency)]
        if len(equals) > 1:
            because += f"; of {len(equals)} with it, it has the least in flight"
            alike = sum(row.load == best.load for row in equals)
            because += f", and of {alike} such it was probed last" if alike > 1 else ""
        now = " ".join(row.server.name for row in probed if row.at == view.now)
        fact = (
            f"{len(probed)} were probed within {MAX_AGE:g} s, the last of them {now}; hot: more "
            f"than {limit:.4g} in flight for its weight, their {QUANTILE:g} quantile"
        )
        return Explanation(rows, because, fact)

    def latency(self, server: Server, now: float) -> float:
        """The expected time of a request now, in seconds.

        0 for a server without a recent answer: it is worth a try.
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
        """Add probes; the oldest ones and those of an age above `MAX_AGE` are dropped."""
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


def _kind(row: Probed, limit: float, view: View) -> tuple[bool, bool, bool]:
    """It can't take the request, it has failed, it is hot: the first counts most against it."""
    server = row.server
    has_failed = server.fails > 0 and seconds_after_failure(server, view.now) >= PENALTY
    return server not in view.candidates, has_failed, row.load > limit and not has_failed


def _in_words(row: Probed, limit: float, view: View) -> str:
    text = for_weight(row.load, row.server) if row.load != row.server.in_flight else ""
    text += ", latency " + seconds_in_words(row.latency, row.load)
    text += f", probed {view.now - row.at:.2f} s ago" if row.at < view.now else ", probed now"
    text += ", hot" if row.load > limit else ""
    text += ", comes last: it has failed" if _kind(row, limit, view)[1] else ""
    return text + hindrance(row.server, view)


def _fastest(probes: Iterable[_Probe], limit: float, are_equal: bool) -> Server | None:
    """The lowest latency of those with a load up to `limit`; of equals the less loaded, or else the
    last."""
    best: Server | None = None
    least = lowest = inf
    for seconds, _, server in probes:
        load = server.in_flight if are_equal else server.in_flight / server.weight
        latency = seconds * (load + 1.0)
        if latency <= lowest and load <= limit and (latency < lowest or load <= least):
            best, least, lowest = server, load, latency
    return best


def quantile_place(size: int, share: float) -> tuple[int, float]:
    """The index of a quantile in `size` ordered values, and the fraction of the way to the next.

    Linear between neighbours, so that the busiest of few servers is above it too. Of (0, 1): 0.84;
    of 16 values between the 13th and the 14th.
    """
    position = share * (size - 1)
    return int(position), position % 1


_QUANTILES: Final = [quantile_place(size, QUANTILE) for size in range(PROBES + 1)]
