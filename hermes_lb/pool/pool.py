"""Who may serve: the servers of one backend, the leases on them, and who waits for one.

A lease starts when a server is picked and ends when the last byte has left or the tunnel has
closed, exactly once, whatever happened between; `leastconn` is honest only so.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Protocol

from hermes_lb.pool.counters import RequestCounters
from hermes_lb.pool.outliers import Outliers
from hermes_lb.pool.server import Server

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb import config


class Lease:
    """The right to use a server, counted in `server.in_flight` until `release`."""

    __slots__ = ("_held", "_pool", "server")

    def __init__(self, pool: Pool, server: Server) -> None:
        self._pool = pool
        self._held = True
        self.server = server
        server.in_flight += 1
        pool.in_flight += 1
        if pool.touched is not None:
            pool.touched.add(server)

    def release(self) -> None:
        """Give it back. A second call is a bug in the caller, and says so."""
        if not self._held:
            raise RuntimeError(f"the lease on {self.server!r} was released twice")
        self._held = False
        self.server.in_flight -= 1
        self._pool.in_flight -= 1
        if self._pool.touched is not None:
            self._pool.touched.add(self.server)
        if self._pool.waiting:
            self._pool.serve_waiting(self.server)

    def __repr__(self) -> str:
        return f"<Lease on {self.server.name}, {'held' if self._held else 'released'}>"


class Waiter(Protocol):
    """A request in the queue."""

    pinned_to: Server | None  # waits for this server only; None once that one is out

    @property
    def tried(self) -> Collection[Server]:
        """Servers that it has already failed on: it is not given these again."""

    def lease_granted(self, lease: Lease) -> None:
        """Called once, when its turn has come; it has left the queue then.

        It runs inside whatever made room: a `release`, a server that came up, a `tick`.
        """


class Pool:
    """The servers of one backend. `rng` is for the lengths of ejections."""

    def __init__(self, name: str, configured: config.Backend, *, rng: Random | None = None) -> None:
        self.name = name
        self.servers = [Server(server) for server in configured.servers]
        self.primaries = [s for s in self.servers if not s.config.backup]
        self.backups = [s for s in self.servers if s.config.backup]
        self.waiting: deque[Waiter] = deque()
        self.in_flight = 0  # leases held, on all servers
        self._now = float("-inf")  # the last time that anyone told us
        self.up: list[Server] = []  # primaries in rotation; a new list whenever anything changes
        self.weights: tuple[int, ...] = ()  # full ones, of `primaries`; new whenever one changes
        self.weights_are_equal = False
        self._present_weights: list[float] = []  # of all servers; lower in a slow start
        self._warming: list[Server] = []
        self._degraded: list[Server] = []
        self.outliers: Outliers | None = None
        if configured.outlier is not None:
            self.outliers = Outliers(name, self.servers, configured.outlier, rng or Random())
        self.version = 0  # another one whenever anything about the servers has changed
        # A strategy that wants to know whose load has changed puts a set here, and clears it.
        self.touched: set[Server] | None = None
        self.is_sound = False  # nobody of `up` has failed: all are candidates that are not full
        self.is_steady = False  # and nobody can be full
        self.unserved = RequestCounters()  # requests that ended without a server
        for server in self.servers:
            server.is_lone = len(self.servers) == 1
            server.when_changed = self._changed
        self._changed()

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {self.servers!r}, {len(self.waiting)} waiting>"

    def _changed(self) -> None:
        """Keep what `candidates` needs on the common path, where nothing has failed.

        A strategy may build on `up` and `weights`, and build anew only when they are other objects.
        """
        if self.outliers is not None and self.outliers.lift_what_is_too_much():
            return  # and it has all been done again
        self.version += 1
        weights = tuple(s.full_weight for s in self.primaries)
        present = [s.weight for s in self.servers]
        up = [s for s in self.primaries if s.takes_new and s.weight]
        if up != self.up or present != self._present_weights:
            self.up = up
            self._present_weights = present
        if weights != self.weights:
            self.weights = weights
        self.weights_are_equal = len(set(present)) == 1
        self._degraded = [s for s in self.servers if s.is_degraded and s.weight]
        self._warming = [s for s in self.servers if s.warmth < 1.0 and s.is_up]
        self.is_sound = bool(up) and not any(s.fails for s in up)
        self.is_steady = self.is_sound and not any(s.max_connections for s in up)
        if self.waiting:
            self._serve_all()

    def candidates(self, tried: Collection[Server], now: float) -> list[Server]:
        """Servers that can take a request now: the primaries, or the backups if there is none, or
        degraded ones if nobody else may serve, now or soon.

        The list may be the pool's own: read it, and do not keep or change it.
        """
        if self.is_steady and not tried:
            return self.up
        for group in (self.up, self.backups):
            found = [s for s in group if s.weight and s not in tried and s.can_take(now)]
            if found:
                return found
        if self._degraded and self._is_last_resort(tried, now):
            return [
                s for s in self._degraded if s not in tried and s.may_serve(now) and not s.is_full
            ]
        return []

    def _is_last_resort(self, tried: Collection[Server], now: float) -> bool:
        """True if only degraded servers may take a request that is pinned to nobody."""
        return not any(
            s.weight and s.takes_new and s not in tried and s.may_serve(now) for s in self.servers
        )

    def can_wait(self, tried: Collection[Server], now: float) -> bool:
        """True if some server could serve as soon as it is no longer full."""
        return any(s.weight and s not in tried and s.may_serve(now) for s in self.servers)

    def lease(self, server: Server, now: float) -> Lease:
        """Start using `server`, which a strategy picked from `candidates`."""
        self._now = now
        if server.fails:
            server.picked(now)
        return Lease(self, server)

    def wait(self, waiter: Waiter) -> None:
        """Join the queue. Leave it by `leave`, or by `lease_granted` being called."""
        self.waiting.append(waiter)
        if waiter.pinned_to is not None:
            waiter.pinned_to.queued += 1
            if self.touched is not None:
                self.touched.add(waiter.pinned_to)

    def leave(self, waiter: Waiter) -> None:
        """A request that gave up, or whose client did, leaves the queue."""
        self.waiting.remove(waiter)
        if waiter.pinned_to is not None:
            waiter.pinned_to.queued -= 1
            if self.touched is not None:
                self.touched.add(waiter.pinned_to)

    def serve_waiting(self, server: Server) -> None:
        """While `server` has room: the first that may use it gets it, in order of arrival.

        A server that failed is judged by the last time we were told, which may only make it wait
        for the next `tick` to be tried again.
        """
        while not server.is_full and server.may_serve(self._now):
            waiter = next((w for w in self.waiting if self._accepts(w, server)), None)
            if waiter is None:
                return
            self.leave(waiter)
            waiter.lease_granted(self.lease(server, self._now))

    def tick(self, now: float) -> None:
        """Call it about once a second: time alone lets a failed server be tried again, ends
        ejections, and goes on with slow starts."""
        self._now = now
        if self.outliers is not None:
            self.outliers.tick(now)
        for server in self._warming:
            server.warm_up(now)
        if self.waiting:
            self._serve_all()

    def _serve_all(self) -> None:
        """Servers changed. Who waits for one that is out takes its place in the common queue."""
        for waiter in self.waiting:
            pinned = waiter.pinned_to
            if pinned is not None and not pinned.may_serve(self._now):
                pinned.queued -= 1
                waiter.pinned_to = None
        for server in (*self.primaries, *self.backups, *self._degraded):
            self.serve_waiting(server)

    def _accepts(self, waiter: Waiter, server: Server) -> bool:
        if waiter.pinned_to is not None:
            return waiter.pinned_to is server
        return (
            server.weight > 0
            and server not in waiter.tried
            and (not server.is_degraded or self._is_last_resort(waiter.tried, self._now))
        )
