"""A server's state at run time, apart from its configured identity.

    state      who set it                                 new requests            those pinned to it
    up         the checks, or nobody                      yes                     yes
    degraded   a check timed out, but its streams moved   if nobody else can      yes
    ejected    it stood out by its failures, for a time   no                      no
    down       the checks, or the configuration           no                      no

Passive failures are apart from these. They follow nginx's `max_fails` and `fail_timeout`
(`ngx_http_upstream_round_robin.c`: `get_peer`, `free_..._peer`), whose fields `accessed` and
`checked` are `failed_at` and `window_start` here. `now` is an argument: nothing in this package
reads a clock.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal, get_args

from hermes_lb.pool.counters import RequestCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config

State = Literal["up", "degraded", "ejected", "down"]
STATES: tuple[State, ...] = get_args(State)

_NEVER = float("-inf")

# Of a slow start. HAProxy has 16 (`BE_WEIGHT_SCALE`), nginx as many as the weight.
_STEPS = 20


class Server:
    """One worker: what is configured, and how it is doing."""

    __slots__ = (
        "config",
        "counters",
        "current_weight",
        "effective_weight",
        "ejected_because",
        "ejected_until",
        "ejections",
        "failed_at",
        "fails",
        "full_weight",
        "in_flight",
        "is_degraded",
        "is_lone",
        "is_up",
        "last_check",
        "max_connections",
        "name",
        "queued",
        "takes_new",
        "warmth",
        "weight",
        "when_changed",
        "window_start",
        "_warm_since",
    )

    def __init__(self, configured: config.Server) -> None:
        self.config = configured
        self.name = configured.name
        self.full_weight = configured.weight
        self.weight: float = configured.weight  # less than the full one in a slow start
        self.warmth = 1.0  # what of its full weight it has
        self._warm_since: float | None = None
        self.max_connections = configured.max_connections
        self.counters = RequestCounters()
        self.in_flight = 0  # leases held
        self.queued = 0  # requests that wait for this server and no other
        self.is_up = not configured.down
        self.last_check = "" if not configured.down else "marked down in the configuration"
        self.is_degraded = False
        self.ejected_until = _NEVER  # monotonic seconds
        self.ejected_because = ""
        self.ejections = 0
        self.takes_new = self.is_up  # requests that are pinned to nobody
        self.is_lone = False
        self.current_weight: float = 0
        self.effective_weight: float = configured.weight
        self.fails = 0
        self.failed_at = _NEVER
        self.window_start = _NEVER
        self.when_changed: Callable[[], None] = lambda: None  # the pool listens here

    def __repr__(self) -> str:
        return (
            f"<Server {self.name} {self.config.address} {self.state}, weight {self.weight:g}, "
            f"{self.in_flight} in flight, {self.queued} queued, {self.fails} fails>"
        )

    @property
    def state(self) -> State:
        """Of the table above; the worst that holds."""
        if not self.is_up:
            return "down"
        if self.is_ejected:
            return "ejected"
        return "degraded" if self.is_degraded else "up"

    @property
    def is_ejected(self) -> bool:
        return self.ejected_until != _NEVER

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
        """Neither down, ejected nor failed: good for those pinned to it. It may still be full."""
        return self.is_up and self.ejected_until == _NEVER and not self.has_failed(now)

    def can_take(self, now: float) -> bool:
        """Good for any request: it may serve, is not degraded, and is not full."""
        limit = self.max_connections
        return (
            self.takes_new
            and not (0 < limit <= self.in_flight)
            and not (self.fails and self.has_failed(now))
        )

    def set_weight(self, weight: int) -> None:
        """0 takes it out of rotation, as in HAProxy: only those pinned to it still come."""
        if weight != self.full_weight:
            self.full_weight = weight
            self._set_warmth(self.warmth)
            self._changed()

    def picked(self, now: float) -> None:
        """A request goes to it: after a window with failures, this one is the probe."""
        if self.fails and now - self.window_start > self.config.fail_timeout:
            self.window_start = now

    def failed(self, now: float) -> None:
        """A connect error, a timeout or an invalid response: its fault, not the client's."""
        self.fails += 1
        self.failed_at = self.window_start = now
        limit = self.config.max_fails
        if limit and self.warmth == 1.0:  # a slow start has reduced it already
            self.effective_weight = max(0, self.effective_weight - self.weight // limit)
        if self.fails in (1, limit):
            self.when_changed()

    def succeeded(self) -> None:
        """A response head arrived. Clears the failures only of a window before this one."""
        if self.fails and (self.failed_at < self.window_start or self.is_lone):
            self.fails = 0
            self.when_changed()

    # What the checks say.

    def await_first_check(self) -> None:
        """Down until its first good check, as `start = "down"` asks; that is no failure."""
        self.is_up = False
        self.last_check = "not checked yet"
        self._changed()

    def set_up(self, up: bool, because: str) -> None:
        """The verdict of the active checks. A server that comes back starts with a clean slate."""
        self.last_check = because
        if self.config.down:
            return
        if not up:
            self._cool_down()
        if up == self.is_up and not self.is_degraded:
            return
        if up and not self.is_up:
            self.fails = 0
            self.effective_weight = self.weight
        self.is_up = up
        self.is_degraded = False
        if not up:
            self.ejected_until = _NEVER
        self._changed()

    def set_degraded(self, because: str) -> None:
        """Busy is not dead: its check timed out while its streams moved. Only from up."""
        self.last_check = because
        if self.is_up and not self.is_degraded:
            self.is_degraded = True
            self._changed()

    # What the others of its backend say of it (`pool.outliers`).

    def eject(self, until: float, because: str) -> None:
        """Out of rotation for a time; who is pinned to it goes elsewhere too."""
        self.ejected_until = until
        self.ejected_because = because
        self.ejections += 1
        self._changed()

    def readmit(self) -> None:
        """An ejection has ended."""
        self.ejected_until = _NEVER
        self.effective_weight = self.weight
        self._changed()

    # Slow start.

    def warm_up(self, now: float) -> None:
        """Call it about once a second while `warmth` is below 1; the first call is the start.

        HAProxy, `server_recalc_eweight`: steps of equal length and height, the first at once.
        """
        if self._warm_since is None:
            self._warm_since = now
        step = int(_STEPS * (now - self._warm_since) / self.config.slow_start) + 1
        warmth = min(1.0, step / _STEPS)
        if warmth > self.warmth:
            self._set_warmth(warmth)
            self._changed()

    def _cool_down(self) -> None:
        """A check has failed: when it comes back, it has the first step of a slow start."""
        if self.config.slow_start:
            self._warm_since = None
            self._set_warmth(1 / _STEPS)

    def _set_warmth(self, warmth: float) -> None:
        self.warmth = warmth
        limit = self.config.max_connections
        if warmth == 1.0:
            self.weight, self.max_connections = self.full_weight, limit
        else:
            self.weight, self.max_connections = self.full_weight * warmth, ceil(limit * warmth)
        self.effective_weight = self.weight

    def _changed(self) -> None:
        self.takes_new = self.is_up and not self.is_degraded and not self.is_ejected
        self.when_changed()
