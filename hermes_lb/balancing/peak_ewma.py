"""The server whose next answer should come soonest: recent time to first byte x what is in flight.

Finagle, `PeakEwma.scala`; linkerd2, Tower's `peak_ewma.rs`. A time above the average replaces it at
once, one below draws it down by exp(-dt / tau); so it is quick to flee and slow to come back. Of
two servers drawn by weight the cheaper is taken. Costs two exponentials a pick and one an answer.
Best where servers differ in speed, or one of them slows down now and then. Misleads where times to
first byte differ by what is asked rather than by who answers (one long prompt marks its server as
slow), and at very few requests: an average that nobody renews fades to nothing.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Final

from hermes_lb.balancing.lots import Lots
from hermes_lb.balancing.response_times import ResponseTimes, seconds_after_failure

if TYPE_CHECKING:
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.base import Request
    from hermes_lb.http import ResponseHead

# Of two whose costs differ by less than a tenth the first drawn is taken, which is by weight. By
# the cost alone who has answered less lately would win between equals, as its average has faded
# more: of weights 1 and 4 both would get half.
_CLEARLY: Final = 0.9
# Seconds: above what answers take, and below what a failure counts (Finagle has one for both).
UNKNOWN: Final = 1e4


class _Average:
    """Of one server's times, as of its last answer; both in seconds."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float, at: float) -> None:
        self.seconds = seconds
        self.at = at


class PeakEwma:
    """`tau`: how long a time is remembered, in seconds."""

    def __init__(self, tau: float = 10.0) -> None:
        self._tau = tau
        self._lots = Lots()
        self._times = ResponseTimes()
        self._averages: dict[Server, _Average] = {}

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        drawn = self._lots.two(pool, request, now, rng)
        if drawn is None:
            return None
        first, second = drawn
        return second if self.cost(second, now) < _CLEARLY * self.cost(first, now) else first

    def cost(self, server: Server, now: float) -> float:
        """Seconds until the next answer, roughly.

        What has never answered and has requests in flight gets no other while somebody else can do
        it. The weight is in the draw already, and here it only divides what is in flight.
        """
        waiting = server.load / server.weight
        average = self._averages.get(server)
        if server.fails:
            seconds = seconds_after_failure(server, now)
        elif average is not None:
            seconds = average.seconds * exp((average.at - now) / self._tau)
        else:
            seconds = UNKNOWN if waiting else 0.0
        return seconds * (waiting + 1.0)

    def forget(self, server: Server) -> None:
        self._averages.pop(server, None)

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        sample = self._times.sample(head.status, seconds)
        average = self._averages.get(server)
        if average is None:
            self._averages[server] = _Average(sample, now)
            return
        kept = exp((average.at - now) / self._tau)
        old = average.seconds * kept
        average.seconds = sample if sample >= old else old + sample * (1.0 - kept)
        average.at = now
