"""The server with the soonest expected answer: recent time to first byte x requests in flight.

Finagle, `PeakEwma.scala`; linkerd2, Tower's `peak_ewma.rs`. A time above the average replaces it at
once, one below draws it down by exp(-dt / tau): a server that becomes slow is avoided at once and
trusted again slowly. Of
two servers drawn by weight the cheaper is taken. Costs two exponentials a pick and one an answer.
Best where servers differ in speed, or one of them slows down now and then. Misleads where times to
first byte depend on the request rather than on the server (one long prompt marks its server as
slow), and at very few requests: an average without new samples fades to nothing.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.base import LEARNER_DEFAULTS, Learner, LearnerOptions
from hermes_lb.balancing.explanation import Explanation, drawn
from hermes_lb.balancing.response_times import (
    ResponseTimes,
    seconds_after_failure,
    seconds_in_words,
)
from hermes_lb.balancing.weighted_sampler import WeightedSampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import View
    from hermes_lb.balancing.request import Request
    from hermes_lb.http import ResponseHead

# Of two whose costs differ by less than a tenth the first drawn is taken, which is by weight. By
# the cost alone, of equal servers the one with fewer recent answers would win, as its average has
# faded more: of weights 1 and 4 both would get half.
_CLEARLY: Final = 0.9
# Seconds: above what answers take, and below what a failure counts (Finagle has one for both).
UNKNOWN: Final = 1e4


class PeakEwma(Learner):
    """`balance = "peak_ewma"`."""

    rule = (
        "of two drawn the first, unless the second's cost is lower by more than a tenth; "
        "cost = average time to first byte x (in flight for its weight + 1)"
    )

    def __init__(self, options: LearnerOptions = LEARNER_DEFAULTS) -> None:
        self._tau: float = options.tau  # how long a time is remembered
        self._sampler = WeightedSampler()
        self._times = ResponseTimes()
        # The average of each server's times, as of its last answer; both in seconds.
        self._averages: dict[Server, tuple[float, float]] = {}

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        two = self._sampler.two(pool, request, now, rng)
        if two is None:
            return None
        first, second = two
        return second if self.cost(second, now) < _CLEARLY * self.cost(first, now) else first

    def cost(self, server: Server, now: float) -> float:
        """Seconds until the next answer, roughly.

        A server that has never answered and has requests in flight gets no other while another
        server can take it. The weight is in the draw already, and here it only divides the
        requests in flight.
        """
        waiting = server.load / server.weight
        average = self._averages.get(server)
        if server.fails:
            seconds = seconds_after_failure(server, now)
        elif average is not None:
            seconds = average[0] * exp((average[1] - now) / self._tau)
        else:
            seconds = UNKNOWN if waiting else 0.0
        return seconds * (waiting + 1.0)

    def figure(self, server: Server, now: float) -> str:
        return ", cost " + seconds_in_words(
            self.cost(server, now), server.load / server.weight, unknown=UNKNOWN
        )

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        servers = self._sampler.distinct_two(view.pool, view.request, view.now, view.rng)

        def explanation(picked: Server) -> Explanation:
            costs = [self.cost(server, view.now) for server in servers]
            if len(servers) == 1:
                because = "is the only one that can"
            elif picked is not servers[0]:
                because = "costs less by more than a tenth"
            elif costs[0] < costs[1]:
                because = "was drawn first, and costs less"
            else:
                because = "was drawn first; the other's cost is not lower by more than a tenth"
            rows = [(server, self.figure(server, view.now)) for server in servers]
            return Explanation(rows, because, drawn(servers))

        return explanation

    def forget(self, server: Server) -> None:
        self._averages.pop(server, None)

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        sample = self._times.sample(head.status, seconds)
        average = self._averages.get(server)
        if average is not None:
            kept = exp((average[1] - now) / self._tau)
            old = average[0] * kept
            sample = sample if sample >= old else old + sample * (1.0 - kept)
        self._averages[server] = sample, now
