"""A server's state at run time, apart from its configured identity.

    state      who set it                                 new requests            those pinned to it
    up         the checks, or the default                 yes                     yes
    degraded   a check timed out, but its streams moved   if no other server can  yes
    drain      the operator, the server itself, or its    no                      yes
               discovery
    failing    its requests failed `max_fails` times      no                      no
    ejected    it stood out by its failures, for a time   no                      no
    down       the checks                                 no                      no
    maint      the operator, or the configuration         no                      no

What runs goes on in each of them. An operator's `ready | drain | maint` are HAProxy's
(`set server ... state`), and `down = true` is its `disabled`: in maintenance from the start, until
an operator says `ready`. A server that returns from maintenance or a drain has a slow start, since
it was most likely restarted; HAProxy (2.6) has none after a drain.

Passive failures follow nginx's `max_fails` and `fail_timeout` (`ngx_http_upstream_round_robin.c`:
`get_peer`, `free_..._peer`), whose fields `accessed` and `checked` are `failed_at` and
`window_start` here. A failing server is out of rotation for `fail_timeout` (`has_failed`), then one
request is the probe; a success after the last failure, or a good check that began after it, ends
the state. While all servers of a backend are out for that reason alone, failures count for nothing
(`in_panic`, which the pool sets). `now` is an argument: nothing in this package reads a clock.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, Literal, get_args

from hermes_lb.backends.counters import RequestCounters

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.backends import options

# From the best to the worst.
State = Literal["up", "degraded", "drain", "failing", "ejected", "down", "maint"]
STATES: tuple[State, ...] = get_args(State)
# Those in which it serves the requests that are pinned to it.
IN_SERVICE = ("up", "degraded", "drain")

# What the operator asks for.
Admin = Literal["ready", "drain", "maint"]
ADMINS: tuple[Admin, ...] = get_args(Admin)

_NEVER = float("-inf")
_NOT_CHECKED = "not checked yet"

# Of a slow start, as in HAProxy (`BE_WEIGHT_SCALE`): sixteenths are exact as floats.
_STEPS = 16


# What operators, checks and outlier detection have decided. Times are monotonic seconds, which all
# processes of a machine share.
_DECIDED = (
    "admin",
    "operator_weight",
    "is_healthy",
    "is_degraded",
    "is_announcing_drain",
    "starts_down",
    "last_check",
    "ejected_until",
    "ejected_because",
    "ejections",
    "warm_since",
    "warmth",
)
Snapshot = dict[str, Any]


class Server:
    """One server: its configuration, and its state at run time."""

    __slots__ = (
        "admin",
        "config",
        "counters",
        "current_weight",
        "effective_weight",
        "ejected_because",
        "ejected_until",
        "ejections",
        "failed_at",
        "failed_because",
        "fails",
        "full_weight",
        "in_flight",
        "in_panic",
        "is_announcing_drain",
        "is_degraded",
        "is_draining",
        "is_healthy",
        "is_only_server",
        "is_up",
        "last_check",
        "maintenances",
        "max_connections",
        "name",
        "operator_weight",
        "queued",
        "starts_down",
        "takes_new",
        "warm_since",
        "warmth",
        "weight",
        "when_changed",
        "when_decided",
        "window_start",
    )

    def __init__(self, configured: options.Server) -> None:
        self.config = configured
        self.name = configured.name
        self.admin: Admin = _configured_admin(configured)
        self.maintenances = int(configured.down)  # how often it went into maintenance
        self.operator_weight: int | None = None  # None: the configured one holds
        self.full_weight = configured.weight
        self.weight = float(configured.weight)  # less than the full one in a slow start
        self.warmth = 1.0  # what of its full weight it has
        self.warm_since: float | None = None  # monotonic seconds
        self.max_connections = configured.max_connections
        self.counters = RequestCounters()
        self.in_flight = 0  # leases held
        self.queued = 0  # requests that wait for this server and no other
        self.is_healthy = True  # the verdict of its checks
        self.starts_down = False  # it has to pass a check before it is up
        self.last_check = "" if not configured.down else "marked down in the configuration"
        self.is_degraded = False
        self.is_announcing_drain = False  # it asks for no new requests
        self.is_draining = configured.leaves  # or the operator, or the server itself
        self.is_up = not configured.down  # neither down nor in maintenance
        self.ejected_until = 0.0  # monotonic seconds; 0: it is not ejected
        self.ejected_because = ""
        self.ejections = 0
        self.takes_new = self.is_up and not configured.leaves  # requests that are not pinned
        self.is_only_server = False
        self.in_panic = False
        self.current_weight = 0.0
        self.effective_weight = self.weight
        self.fails = 0
        self.failed_at = _NEVER
        self.failed_because = ""  # the last failure, in words
        self.window_start = _NEVER
        # Set by the pool: called when selection may be affected, and when the snapshot has changed.
        self.when_changed: Callable[[], None] = lambda: None
        self.when_decided: Callable[[Server], None] = lambda server: None

    def __repr__(self) -> str:
        return (
            f"<Server {self.name} {self.config.address} {self.state}, weight {self.weight:g}, "
            f"{self.in_flight} in flight, {self.queued} queued, {self.fails} fails>"
        )

    @property
    def state(self) -> State:
        """The worst state of the table above that applies."""
        if self.admin == "maint":
            return "maint"
        if not self.is_healthy:
            return "down"
        if self.is_ejected:
            return "ejected"
        if self.is_failing:
            return "failing"
        if self.is_draining:
            return "drain"
        return "degraded" if self.is_degraded else "up"

    @property
    def is_ejected(self) -> bool:
        return self.ejected_until > 0.0

    @property
    def is_failing(self) -> bool:
        """It has reached `max_fails`, and neither a request nor a check has succeeded since.

        Whether it is out of rotation for that at a given time: `has_failed`. The only server of a
        backend never is.
        """
        return 0 < self.config.max_fails <= self.fails

    @property
    def is_checked(self) -> bool:
        """An active check has had a result. Without one, `up` is only an assumption."""
        return self.last_check not in ("", _NOT_CHECKED)

    @property
    def is_able(self) -> bool:
        """It may serve, apart from passive failures."""
        return self.is_up and not self.ejected_until

    @property
    def is_in_rotation(self) -> bool:
        """Neither the operator nor the server itself has excluded requests that are not pinned."""
        return self.full_weight > 0 and not self.is_draining

    @property
    def load(self) -> int:
        """Leases held and requests pinned to it that wait: what `leastconn` compares, and what a
        drain waits for."""
        return self.in_flight + self.queued

    @property
    def is_full(self) -> bool:
        return 0 < self.max_connections <= self.in_flight

    def has_failed(self, now: float) -> bool:
        """True while passive failures keep it out of rotation. A lone server never is, nor is any
        in a panic."""
        limit = self.config.max_fails
        return (
            0 < limit <= self.fails
            and now - self.window_start <= self.config.fail_timeout
            and not self.is_only_server
            and not self.in_panic
        )

    def may_serve(self, now: float) -> bool:
        """Neither down, in maintenance, ejected nor failed: good for those pinned to it.

        It may still be full.
        """
        return self.is_up and not self.ejected_until and not self.has_failed(now)

    def can_take(self, now: float) -> bool:
        """Good for any request: it may serve, is neither degraded nor draining, and not full."""
        limit = self.max_connections
        return (
            self.takes_new
            and not (0 < limit <= self.in_flight)
            and not (self.fails and self.has_failed(now))
        )

    def picked(self, now: float) -> None:
        """A request is sent to it. After a window with failures, this request is the probe.

        So is a request within the window: it comes only if no other server is left.
        """
        if self.fails and (self.is_failing or now - self.window_start > self.config.fail_timeout):
            self.window_start = now

    def failed(self, now: float, because: str = "") -> None:
        """A connect error, a timeout or an invalid response: its fault, not the client's."""
        was_out = self.has_failed(now)
        self.fails += 1
        self.failed_at = self.window_start = now
        self.failed_because = because
        limit = self.config.max_fails
        if limit and self.warmth == 1.0:  # a slow start has reduced it already
            self.effective_weight = max(0.0, self.effective_weight - self.weight // limit)
        if self.fails in (1, limit) or (not was_out and self.has_failed(now)):
            self.when_changed()

    def succeeded(self) -> None:
        """A response head arrived. Clears the failures only of a window before this one."""
        if self.fails and (self.failed_at < self.window_start or self.is_only_server):
            self.recovered()

    def recovered(self) -> None:
        """Clear its failures."""
        self.fails = 0
        self.when_changed()

    def allow_probe(self) -> None:
        """The next request is its probe, however short ago it failed."""
        if self.is_failing:
            self.window_start = _NEVER

    # Set by the operator.

    def set_admin(self, admin: Admin) -> None:
        """Ready, drain or maint. Raises ValueError for anything else.

        After a maintenance the old verdict of the checks is void: it is up, or waits for its first
        good check if its backend has `start = "down"`.
        """
        if admin not in ADMINS:
            raise ValueError(f"a server can be set to ready, drain or maint, not {admin!r}")
        if admin == self.admin:
            return
        before, self.admin = self.admin, admin
        if admin == "maint":
            self.maintenances += 1
            self.is_announcing_drain = False
        elif before == "maint":
            self.is_healthy = not self.starts_down
            self.last_check = _NOT_CHECKED if self.starts_down else ""
            self._cool_down()
        elif before == "drain" and not self.is_announcing_drain:
            self._cool_down()
        self._changed()

    def set_weight(self, weight: int | None) -> None:
        """0 takes it out of rotation for all but requests pinned to it, as in HAProxy.

        None: the configured weight.
        """
        if weight != self.operator_weight:
            self.operator_weight = weight
            self._set_warmth(self.warmth)
            self._changed()

    def reconfigure(self, configured: options.Server) -> None:
        """Apply a reload. What the operator has set stays, unless that very key has changed."""
        before, self.config = self.config, configured
        if configured == before:
            return
        if configured.address != before.address:
            self._moved()
        if configured.weight != before.weight:
            self.operator_weight = None
        self._set_warmth(self.warmth if configured.slow_start else 1.0)
        if configured.down != before.down:
            self.set_admin(_configured_admin(configured))
        self._changed()

    def _moved(self) -> None:
        """A discovered server has another address: what its failures and checks said is void. What
        the operator has set stays, and so do its counters."""
        self.fails = 0
        self.ejected_until = 0.0
        self.is_announcing_drain = False
        self.maintenances += 1  # results of checks that are on their way are of the old address
        if self.admin != "maint":
            self.is_healthy = not self.starts_down
            self.last_check = _NOT_CHECKED if self.starts_down else ""
            self._cool_down()

    # Set by the checks; ignored in maintenance.

    def await_first_check(self) -> None:
        """Down until its first good check, as `start = "down"` asks; that is no failure."""
        self.is_healthy = False
        self.starts_down = True
        if self.admin != "maint":
            self.last_check = _NOT_CHECKED
        self._changed()

    def set_up(self, up: bool, because: str) -> None:
        """The verdict of the active checks. A good one ends a drain that the server announced."""
        if self.admin == "maint":
            return
        self.last_check = because
        was_announcing, self.is_announcing_drain = self.is_announcing_drain, False
        if not up or (was_announcing and self.admin == "ready"):
            self._cool_down()
        if up != self.is_healthy or self.is_degraded or was_announcing:
            self.is_healthy = up
            self.is_degraded = False
            self._changed()

    def set_degraded(self, because: str) -> None:
        """Busy is not dead: its check timed out while its streams moved. Only from up."""
        if self.admin == "maint":
            return
        self.last_check = because
        if self.is_up and not self.is_degraded:
            self.is_degraded = True
            self._changed()

    def announce_drain(self, because: str) -> None:
        """Its check was answered with a request to drain; the next good check ends the drain."""
        if self.admin == "maint":
            return
        self.last_check = because
        if not self.is_announcing_drain or self.is_degraded:
            self.is_announcing_drain = True
            self.is_degraded = False
            self._changed()

    # Set by outlier detection (`backends.outliers`).

    def eject(self, until: float, because: str) -> None:
        """Out of rotation until then, also for requests pinned to it."""
        self.ejected_until = until
        self.ejected_because = because
        self.ejections += 1
        self._changed()

    def readmit(self) -> None:
        """An ejection has ended."""
        self.ejected_until = 0.0
        self.effective_weight = self.weight
        self._changed()

    # Slow start.

    def warm_up(self, now: float) -> None:
        """Call it about once a second while `warmth` is below 1; the first call is the start.

        HAProxy, `server_recalc_eweight`: steps of equal length and height, the first at once. If
        the warmth came from a process whose configuration has a slow start, and this one's has
        none, the server is warm at once.
        """
        if self.warm_since is None:
            self.warm_since = now
        whole = self.config.slow_start
        step = int(_STEPS * (now - self.warm_since) / whole) + 1 if whole else _STEPS
        warmth = min(1.0, step / _STEPS)
        if warmth > self.warmth:
            self._set_warmth(warmth)
            self.when_changed()

    def _cool_down(self) -> None:
        """Start a slow start, now or when it comes back."""
        if self.config.slow_start:
            self.warm_since = None
            self._set_warmth(1 / _STEPS)

    def _set_warmth(self, warmth: float) -> None:
        self.warmth = warmth
        own = self.operator_weight
        self.full_weight = self.config.weight if own is None else own
        limit = self.config.max_connections
        if warmth == 1.0:
            self.weight, self.max_connections = float(self.full_weight), limit
        else:
            self.weight, self.max_connections = self.full_weight * warmth, ceil(limit * warmth)
        self.effective_weight = self.weight

    # For other processes.

    def snapshot(self) -> Snapshot:
        """The decisions about the server, fit for JSON; `restore` applies them in another process.

        Leases, counters and passive failures are not included.
        """
        return {name: getattr(self, name) for name in _DECIDED}

    def restore(self, saved: Snapshot) -> None:
        """Take the values of a `snapshot`; what is missing in it stays as it is."""
        changed = {name for name, value in saved.items() if value != getattr(self, name)}
        if saved.get("admin") == "maint" and "admin" in changed:
            self.maintenances += 1
        for name in changed:
            setattr(self, name, saved[name])
        if changed & {"warmth", "operator_weight"}:
            self._set_warmth(self.warmth)
        if changed - {"last_check"}:
            self._changed()

    def _changed(self) -> None:
        """Update what follows from the decisions. A server that comes up has no failures."""
        was_up, self.is_up = self.is_up, self.is_healthy and self.admin != "maint"
        if not self.is_up:
            self.is_degraded = False
            self.ejected_until = 0.0
        elif not was_up:
            self.fails = 0
            self.effective_weight = self.weight
        self.is_draining = self.admin == "drain" or self.is_announcing_drain or self.config.leaves
        is_kept_back = self.is_degraded or self.is_draining or self.is_ejected
        self.takes_new = self.is_up and not is_kept_back
        self.when_changed()
        self.when_decided(self)


def _configured_admin(configured: options.Server) -> Admin:
    return "maint" if configured.down else "ready"
