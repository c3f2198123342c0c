"""The limits for one client address, as configured and as shared between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.limits.per_client import ConnectionCounter, request_rates

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.limits.per_client import RateLimiter, SharedCounts


class ClientLimits:
    """`connections`: how many are open. `rates`: of requests; None: there is no limit."""

    __slots__ = ("_shared_requests", "connections", "rates")

    def __init__(self, limits: config.Limits) -> None:
        self.connections = ConnectionCounter(limits.connections_per_client)
        self._shared_requests: SharedCounts | None = None
        self.rates: RateLimiter | None = request_rates(limits)

    def reconfigure(self, limits: config.Limits, now: float) -> None:
        """Change the limits; what clients have used stays used."""
        self.connections.reconfigure(limits.connections_per_client)
        self.rates = request_rates(limits, self._shared_requests, before=self.rates, now=now)

    def share(self, connections: SharedCounts | None, requests: SharedCounts | None) -> None:
        """Share the counters with other processes; None: count locally."""
        self.connections.share(connections)
        self._shared_requests = requests
        if self.rates is not None:
            self.rates.share(requests)
