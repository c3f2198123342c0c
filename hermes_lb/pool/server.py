"""A server's state at run time, apart from its configured identity.

`is_up` is what the active checks say. Passive failures follow nginx's `max_fails` and
`fail_timeout` (`ngx_http_upstream_round_robin.c`: `get_peer`, `free_..._peer`), whose fields
`accessed` and `checked` are `failed_at` and `window_start` here. `now` is an argument: nothing in
this package reads a clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.pool.counters import RequestCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config

_NEVER = float("-inf")


class Server:
    """One worker: what is configured, and how it is doing."""

    __slots__ = (
        "config",
        "counters",
        "current_weight",
        "effective_weight",
        "failed_at",
        "fails",
        "in_flight",
        "is_lone",
        "is_up",
        "last_check",
        "max_connections",
        "name",
        "queued",
        "weight",
        "when_changed",
        "window_start",
    )

    def __init__(self, configured: config.Server) -> None:
        self.config = configured
        self.name = configured.name
        self.weight = configured.weight
        self.max_connections = configured.max_connections
        self.counters = RequestCounters()
        self.in_flight = 0  # leases held
        self.queued = 0  # requests that wait for this server and no other
        self.is_up = not configured.down
        self.last_check = "" if not configured.down else "marked down in the configuration"
        self.is_lone = False
        self.current_weight = 0
        self.effective_weight = configured.weight
        self.fails = 0
        self.failed_at = _NEVER
        self.window_start = _NEVER
        self.when_changed: Callable[[], None] = lambda: None  # the pool listens here

    def __repr__(self) -> str:
        state = "up" if self.is_up else "down"
        return (
            f"<Server {self.name} {self.config.address} {state}, weight {self.weight}, "
            f"{self.in_flight} in flight, {self.queued} queued, {self.fails} fails>"
        )

    @property
    def load(self) -> int:
        """What `leastconn` compares: leases held and requests waiting for this very server."""
        return self.in_flight + self.queued

    @property
    def is_full(self) -> bool:
        return 0 < self.max_connections <= self.in_flight

    def has_failed(self, now: float) -> bool:
        """True while passive failures keep it out of rotation. A lone server never is."""
        limit = self.config.max_fails
        return (
            0 < limit <= self.fails
            and now - self.window_start <= self.config.fail_timeout
            and not self.is_lone
        )

    def may_serve(self, now: float) -> bool:
        """Up and not failed; it may still be full."""
        return self.is_up and not self.has_failed(now)

    def picked(self, now: float) -> None:
        """A request goes to it: after a window with failures, this one is the probe."""
        if self.fails and now - self.window_start > self.config.fail_timeout:
            self.window_start = now

    def failed(self, now: float) -> None:
        """A connect error, a timeout or an invalid response: its fault, not the client's."""
        self.fails += 1
        self.failed_at = self.window_start = now
        limit = self.config.max_fails
        if limit:
            self.effective_weight = max(0, self.effective_weight - self.weight // limit)
        if self.fails in (1, limit):
            self.when_changed()

    def succeeded(self) -> None:
        """A response head arrived. Clears the failures only of a window before this one."""
        if self.fails and (self.failed_at < self.window_start or self.is_lone):
            self.fails = 0
            self.when_changed()

    def set_up(self, up: bool, because: str) -> None:
        """The verdict of the active checks. A server that comes back starts with a clean slate."""
        self.last_check = because
        if up != self.is_up and not self.config.down:
            self.is_up = up
            if up:
                self.fails = 0
                self.effective_weight = self.weight
            self.when_changed()
