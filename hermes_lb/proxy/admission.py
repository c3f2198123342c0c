"""What one client address may take: connections at a time, requests a second."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.config import Limits

# Clients whose recent requests are remembered (15 MB); beyond that, the first ones are forgotten.
_MOST_BUCKETS = 100_000


@lru_cache(maxsize=4096)
def client_key(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network of 64 bits.

    One host has a whole such network (RFC 6177), so counting single addresses would bound nothing.
    """
    if ":" not in address:
        return address
    number = int(IPv6Address(address.partition("%")[0]))
    return str(IPv6Address(number >> 64 << 64)) + "/64"


class ConnectionCounts:
    """Open connections by client."""

    def __init__(self, most: int) -> None:
        """`most` for one client; 0: any number."""
        self._most = most
        self._open: dict[str, int] = {}

    def came(self, address: str) -> bool:
        """Count one more -> may it stay? It is counted either way, until `gone`."""
        if not self._most:
            return True
        key = client_key(address)
        self._open[key] = count = self._open.get(key, 0) + 1
        return count <= self._most

    def gone(self, address: str) -> None:
        """One that came has ended."""
        if self._most:
            key = client_key(address)
            if (left := self._open[key] - 1) > 0:
                self._open[key] = left
            else:
                del self._open[key]


class RequestRates:
    """A token bucket for each client, as GCRA: one number tells how full it is.

    The number is the time at which the bucket will be full again ("theoretical arrival time"; ITU-T
    I.371, annex A). A request moves it on by 1/rate; it may not be more than burst/rate ahead.
    """

    def __init__(self, rate: float, burst: int) -> None:
        """`rate`: requests a second, on average. `burst`: so many at once."""
        self._each = 1.0 / rate
        self._most_ahead = burst / rate
        self._full_at: dict[str, float] = {}

    def came(self, address: str, now: float) -> int:
        """One request at `now` (monotonic seconds) -> 0, or seconds until one will be accepted."""
        key = client_key(address)
        full_at = max(now, self._full_at.get(key, 0.0)) + self._each
        # A rounding error must not cost the last of a burst, or a second more.
        ahead = full_at - now - self._most_ahead - self._each * 1e-6
        if ahead > 0.0:
            return max(1, ceil(ahead))
        if key not in self._full_at and len(self._full_at) >= _MOST_BUCKETS:
            self._make_room(now)
        self._full_at[key] = full_at
        return 0

    def _make_room(self, now: float) -> None:
        """Forget those whose bucket is full again; if there are none, some of the others."""
        doomed = [key for key, full_at in self._full_at.items() if full_at <= now]
        for key in doomed or list(islice(self._full_at, _MOST_BUCKETS // 10)):
            del self._full_at[key]


def request_rates(limits: Limits) -> RequestRates | None:
    """None if there is no limit."""
    return RequestRates(limits.request_rate, limits.request_burst) if limits.request_rate else None
