"""Limits for one client address: concurrent connections, requests a second."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Protocol

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


class SharedCounts(Protocol):
    """A number for each client, in several processes."""

    def count(self, client: str, change: int) -> int:
        """Add `change`, which may be negative, in this process -> the number in all processes."""


class ConnectionCounter:
    """Open connections by client."""

    def __init__(self, most: int) -> None:
        """`most` for one client; 0: any number."""
        self.shared: SharedCounts | None = None
        self._most = most
        self._open: dict[str, int] = {}

    def reconfigure(self, most: int) -> None:
        """Change the limit; open connections are kept."""
        self._most = most

    def share(self, shared: SharedCounts | None) -> None:
        """Share the counters with other processes; None: count locally.

        Open connections are added there, or removed.
        """
        for key, count in self._open.items():
            if self.shared is not None:
                self.shared.count(key, -count)
            if shared is not None:
                shared.count(key, count)
        self.shared = shared

    def acquire(self, address: str) -> bool:
        """Count one more, until it is `gone` -> may it stay? If not, it does not count."""
        key = client_key(address)
        self._open[key] = count = self._open.get(key, 0) + 1
        if self.shared is not None:
            count = self.shared.count(key, 1)
        if self._most and count > self._most:
            self.release(address)
            return False
        return True

    def release(self, address: str) -> None:
        """One that came, and might stay, has ended."""
        key = client_key(address)
        if (left := self._open[key] - 1) > 0:
            self._open[key] = left
        else:
            del self._open[key]
        if self.shared is not None:
            self.shared.count(key, -1)


class ClientAmounts:
    """How much of something each client has, and all of them: `total`."""

    def __init__(self) -> None:
        self._amounts: dict[str, int] = {}
        self.total = 0

    def of(self, address: str) -> int:
        return self._amounts.get(client_key(address), 0)

    def add(self, address: str, change: int) -> None:
        """It has more by `change`, or less."""
        key = client_key(address)
        amount = self._amounts.get(key, 0) + change
        self.total += change
        if amount:
            self._amounts[key] = amount
        else:
            self._amounts.pop(key, None)


class FairShare(ClientAmounts):
    """Of something limited.

    A client may have as much as is free then (the dynamic threshold of Choudhury and Hahne, 1998,
    with alpha = 1): one by itself gets a half, and the other half is there for others.
    """

    def __init__(self, most: int) -> None:
        """`most` for all clients together."""
        super().__init__()
        self._most = most

    def has_room(self, address: str, amount: int) -> bool:
        """Whether it may have this much more."""
        return self.of(address) + amount <= self._most - self.total


class RateLimiter:
    """A token bucket for each client, as GCRA: one number holds its fill level.

    The number is the time at which the bucket will be full again ("theoretical arrival time"; ITU-T
    I.371, annex A). A request moves it on by 1/rate; it may not be more than burst/rate ahead.
    """

    def __init__(self, rate: float, burst: int, shared: SharedCounts | None = None) -> None:
        """`rate`: requests a second, on average. `burst`: the number that may come at once.

        `shared` counts the requests that were accepted, in all processes.
        """
        self._set(rate, burst)
        self._full_at: dict[str, float] = {}
        self._shared = shared
        self._seen: dict[str, tuple[int, float]] = {}  # the shared count, and when it was that

    def share(self, shared: SharedCounts | None) -> None:
        """Share the counters with other processes; None: count locally."""
        self._shared = shared
        self._seen.clear()

    def _set(self, rate: float, burst: int) -> None:
        self._each = 1.0 / rate
        self._most_ahead = burst / rate

    def reconfigure(self, rate: float, burst: int, now: float) -> None:
        """Change the limits at `now` (monotonic seconds).

        Tokens that a client has used stay used, up to the size of the new bucket.
        """
        each, most_ahead = self._each, self._most_ahead
        self._set(rate, burst)
        if (each, most_ahead) == (self._each, self._most_ahead):
            return
        for key, full_at in self._full_at.items():
            if full_at > now:
                used = (full_at - now) / each
                self._full_at[key] = now + min(used * self._each, self._most_ahead)

    def acquire(self, address: str, now: float) -> int:
        """One request at `now` (monotonic seconds) -> 0, or seconds until one will be accepted."""
        key = client_key(address)
        if key not in self._full_at and len(self._full_at) >= _MOST_BUCKETS:
            self._make_room(now)
        full_at = self._full_at.get(key, 0.0)
        if self._shared is not None:  # what others took is gone, whatever becomes of this one
            full_at = self._full_at[key] = self._with_others(self._shared, key, full_at, now)
        full_at = max(now, full_at) + self._each
        # A rounding error must not cost the last of a burst, or a second more.
        ahead = full_at - now - self._most_ahead - self._each * 1e-6
        if ahead > 0.0:
            return max(1, ceil(ahead))
        self._full_at[key] = full_at
        if self._shared is not None:
            self._shared.count(key, 1)
            self._seen[key] = self._seen[key][0] + 1, now
        return 0

    def _with_others(self, shared: SharedCounts, key: str, full_at: float, now: float) -> float:
        """When the bucket will be full again, after what other processes have accepted meanwhile.

        When they did is not known: as if it was right after we looked the last time.
        """
        total = shared.count(key, 0)
        before, at = self._seen.get(key, (total, now))
        self._seen[key] = total, now
        return max(at, full_at) + self._each * (total - before) if total > before else full_at

    def _make_room(self, now: float) -> None:
        """Forget those whose bucket is full again; if there are none, some of the others."""
        doomed = [key for key, full_at in self._full_at.items() if full_at <= now]
        for key in doomed or list(islice(self._full_at, _MOST_BUCKETS // 10)):
            del self._full_at[key]
            self._seen.pop(key, None)


def request_rates(
    limits: Limits,
    shared: SharedCounts | None = None,
    *,
    before: RateLimiter | None = None,
    now: float = 0.0,
) -> RateLimiter | None:
    """None if there is no limit. The buckets of `before` are kept, with the new limits."""
    if not limits.request_rate:
        return None
    if before is not None:
        before.reconfigure(limits.request_rate, limits.request_burst, now)
        return before
    return RateLimiter(limits.request_rate, limits.request_burst, shared)
