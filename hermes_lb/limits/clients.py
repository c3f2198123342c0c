"""The limits for one client address, as configured and as shared between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.limits.per_client import ConnectionCounter, RateLimiter, request_rates

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.limits.per_client import SharedCounts


class ClientLimits:
    """`connections`: how many are open. `rates`: of requests; None: there is no limit."""

    __slots__ = ("_own_before", "_own_rates", "_shared_requests", "connections", "rates")

    def __init__(self, limits: config.Limits) -> None:
        self.connections = ConnectionCounter(limits.connections_per_client)
        self._shared_requests: SharedCounts | None = None
        self.rates: RateLimiter | None = request_rates(limits)
        # Of routes and backends with limits of their own; those of before a reload.
        self._own_rates: dict[str, RateLimiter] = {}
        self._own_before: dict[str, RateLimiter] = {}

    def reconfigure(self, limits: config.Limits, now: float) -> None:
        """Change the limits; what clients have used stays used.

        `own_rates` has to be called again for what has limits of its own.
        """
        self._own_before, self._own_rates = self._own_rates, {}
        self.connections.reconfigure(limits.connections_per_client)
        self.rates = request_rates(limits, self._shared_requests, before=self.rates, now=now)

    def share(self, connections: SharedCounts | None, requests: SharedCounts | None) -> None:
        """Share the counters with other processes; None: count locally."""
        self.connections.share(connections)
        self._shared_requests = requests
        if self.rates is not None:
            self.rates.share(requests)
        for owner, rates in self._own_rates.items():
            rates.share(_of_owner(requests, owner))

    def own_rates(self, owner: str, rate: float, burst: int, now: float) -> RateLimiter | None:
        """The limiter of a route or a backend, which has no other name; None: no limit."""
        if not rate:
            return None
        found = self._own_rates.get(owner) or self._own_before.pop(owner, None)
        if found is None:
            found = RateLimiter(rate, burst, _of_owner(self._shared_requests, owner))
        else:
            found.reconfigure(rate, burst, now)
        self._own_rates[owner] = found
        return found


class _OwnCounts:
    """Of the clients of one owner, among those of all (`SharedCounts`)."""

    __slots__ = ("_owner", "_shared")

    def __init__(self, shared: SharedCounts, owner: str) -> None:
        self._shared = shared
        self._owner = owner

    def count(self, client: str, change: int) -> int:
        return self._shared.count(f"{client} at {self._owner}", change)


def _of_owner(shared: SharedCounts | None, owner: str) -> SharedCounts | None:
    return None if shared is None else _OwnCounts(shared, owner)
