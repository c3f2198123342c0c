"""Outlier detection: servers that fail while the others of their backend do not are ejected.

Envoy's outlier detection (`outlier_detection.proto`), with these rules:

- A failure is a response of 500 or above, a failed connection, a timeout, or an invalid head.
- A server is ejected after `consecutive_failures` in a row, or at the end of an interval in which
  `failure_share` of its answers were failures, if there were `min_requests`.
- The ejection lasts `ejection_time` x the number of ejections, at most `max_ejection_time`, plus a
  jitter of up to 10 %, so that several do not come back together. Each interval without an ejection
  takes one off the number.
- At most half of a backend's servers are out of rotation, including those that are down, degraded,
  drained or of weight 0: an ejection beyond that is not made, and if servers go down meanwhile, all
  ejections end. Envoy's panic threshold has the same purpose, but also uses servers that fail their
  checks; here those stay out.
- Good checks do not end an ejection: a server may answer its checks and not its requests.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from hermes_lb.backends import options
    from hermes_lb.backends.server import Server

logger = logging.getLogger("hermes_lb.health")

# Share of the ejection time that is added at most. HAProxy and Envoy have none by default.
_JITTER = 0.1


class _Record:
    """The recent answers of one server."""

    __slots__ = ("answers", "ejections", "failures", "in_a_row", "times_ejected")

    def __init__(self) -> None:
        self.in_a_row = 0  # failures since the last good answer
        self.answers = 0  # in this interval, failures included
        self.failures = 0
        self.times_ejected = 0
        self.ejections = 0  # of the server, at the last failure

    def reset(self) -> None:
        self.in_a_row = self.answers = self.failures = 0


class Outliers:
    """The detector of one backend. `now` is monotonic, in seconds."""

    def __init__(
        self, backend: str, servers: Sequence[Server], configured: options.Outlier, rng: Random
    ) -> None:
        self._backend = backend
        self._servers = servers
        self._configured = configured
        self._rng = rng
        self._records = {server: _Record() for server in servers}
        self._interval_ends: float | None = None  # the first tick starts it

    def __repr__(self) -> str:
        ejected = [server.name for server in self._servers if server.is_ejected]
        return f"<Outliers of {self._backend}, ejected: {', '.join(ejected) or 'none'}>"

    def follow(self, servers: Sequence[Server]) -> None:
        """The servers are these now; what is known of those that stay is kept."""
        if servers == self._servers:
            return
        self._servers = servers
        self._records = {server: self._records.get(server) or _Record() for server in servers}

    # Called by the data path.

    def answered(self, server: Server, status: int, now: float) -> None:
        """A final response head came."""
        if status >= 500:
            self.failed(server, now)
        else:
            record = self._records.get(server)
            if record is not None:  # its server is gone from the configuration otherwise
                record.answers += 1
                record.in_a_row = 0

    def failed(self, server: Server, now: float) -> None:
        """A failure, as defined above."""
        record = self._records.get(server)
        if record is None:
            return
        if record.ejections != server.ejections:  # another process has ejected it
            record.ejections = server.ejections
            record.reset()
        record.answers += 1
        record.failures += 1
        record.in_a_row += 1
        limit = self._configured.consecutive_failures
        if 0 < limit <= record.in_a_row:
            self._eject(server, record, now, f"{record.in_a_row} failures in a row")

    # Called by time.

    def tick(self, now: float) -> None:
        """Call it about once a second: ends ejections and intervals."""
        self._end_what_is_over(now)
        if self._interval_ends is None:
            self._interval_ends = now + self._configured.interval
        elif self._interval_ends <= now:
            self._interval_ends = now + self._configured.interval
            self._judge_interval(now)

    def _end_what_is_over(self, now: float) -> None:
        for server in self._servers:
            if server.is_ejected and server.ejected_until <= now:
                self._readmit(server, "its time is over", logging.INFO)

    def _judge_interval(self, now: float) -> None:
        configured = self._configured
        for server, record in self._records.items():
            enough = record.answers >= configured.min_requests
            share = record.failures / record.answers if enough else 0.0
            if 0.0 < configured.failure_share <= share:
                because = f"{record.failures} of {record.answers} requests failed"
                self._eject(server, record, now, because)
            elif not server.is_ejected and record.times_ejected:
                record.times_ejected -= 1
            record.answers = record.failures = 0

    # Ejections.

    def allows(self, server: Server, now: float) -> bool:
        """Whether it may be ejected: it is up, and not more than half would be out.

        Ejections whose time is over do not count, even if `tick` has not ended them yet.
        """
        self._end_what_is_over(now)
        out = self._out() + bool(server.takes_new and server.weight)
        return server.is_up and 2 * out <= len(self._servers)

    def lift_what_is_too_much(self) -> bool:
        """End all ejections if too many servers are out -> whether there were any."""
        ejected = [server for server in self._servers if server.is_ejected]
        if not ejected or 2 * self._out() <= len(self._servers):
            return False
        for server in ejected:
            if server.is_ejected:  # `readmit` calls back, and this method is entered again
                self._readmit(server, "too many servers are out", logging.WARNING)
        return True

    def _out(self) -> int:
        return sum(not (server.takes_new and server.weight) for server in self._servers)

    def _eject(self, server: Server, record: _Record, now: float, because: str) -> None:
        if server.is_ejected or not self.allows(server, now):
            return
        record.reset()
        record.times_ejected += 1
        configured = self._configured
        longest = max(configured.ejection_time, configured.max_ejection_time)
        time = min(configured.ejection_time * record.times_ejected, longest)
        time *= self._rng.uniform(1, 1 + _JITTER)
        logger.warning("%s/%s is EJECTED for %.1f s: %s", self._backend, server.name, time, because)
        server.eject(now + time, because)

    def _readmit(self, server: Server, because: str, level: int) -> None:
        self._records[server].reset()
        logger.log(level, "%s/%s is back: %s", self._backend, server.name, because)
        server.readmit()
