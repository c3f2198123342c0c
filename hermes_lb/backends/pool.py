"""Who may serve: the servers of one backend, the leases on them, and who waits for one.

A lease starts when a server is picked and ends when the last byte has left or the tunnel has
closed, exactly once, whatever happened between; `leastconn` is honest only so.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Protocol

from hermes_lb.backends.counters import RequestCounters
from hermes_lb.backends.failures import FailureLog, are_all
from hermes_lb.backends.outliers import Outliers
from hermes_lb.backends.server import Server
from hermes_lb.errors import NoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

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
        if pool.peers is not None:
            pool.peers.leased(server, 1)

    def release(self) -> None:
        """Give it back. A second call is a bug in the caller, and says so."""
        if not self._held:
            raise RuntimeError(f"the lease on {self.server!r} was released twice")
        self._held = False
        server, pool = self.server, self._pool
        server.in_flight -= 1
        pool.in_flight -= 1
        if pool.touched is not None:
            pool.touched.add(server)
        if pool.peers is not None:
            pool.peers.leased(server, -1)
        if pool.waiting:
            pool.serve_waiting(server)
        if pool.peers is not None and server.max_connections and not server.is_full:
            pool.peers.has_room(pool, server)

    def __repr__(self) -> str:
        return f"<Lease on {self.server.name}, {'held' if self._held else 'released'}>"


class Waiter(Protocol):
    """A request in the queue."""

    pinned_to: Server | None  # waits for this server only; the pool changes it if that one is out

    @property
    def tried(self) -> Collection[Server]:
        """Servers that it has already failed on: it is not given these again."""

    def lease_granted(self, lease: Lease) -> None:
        """Called once, when its turn has come; it has left the queue then.

        It runs inside whatever made room: a `release`, a server that came up, a `tick`.
        """

    def server_lost(self, now: float) -> Server | None:
        """The server it is pinned to is out -> the one that it waits for now, None for any.

        The same one: it waits on, and is asked again. Raises NoServer if nobody else may have it:
        `fail` follows. It is asked in the middle of the queue, and changes nothing by itself.
        """

    def fail(self, error: NoServer) -> None:
        """It leaves the queue, by `leave`: nobody may serve it."""


class Peers(Protocol):
    """Other processes that use the same servers (`hermes_lb.workers.peers`).

    With them `Server.in_flight` counts the leases of all, as far as this one knows.
    """

    def leased(self, server: Server, change: int) -> None:
        """One lease more here, or one less (-1)."""

    def is_over(self, server: Server) -> bool:
        """Look at the others' leases now: are there more than `max_connections`?"""

    def queue_changed(self, pool: Pool, waiter: Waiter, *, joined: bool) -> None:
        """A request waits here, or waits no more."""

    def queue_moved(self, pool: Pool) -> None:
        """Requests wait for another server than before, or for any, at their old places."""

    def is_others_turn(self, pool: Pool, server: Server, waiter: Waiter) -> bool:
        """True if a request has waited longer elsewhere for this place; its process is told."""

    def has_room(self, pool: Pool, server: Server) -> None:
        """Nobody here wants the place on `server`: tell whoever waits for it elsewhere."""


class Pool:
    """The servers of one backend. `rng` is for the lengths of ejections."""

    def __init__(self, name: str, configured: config.Backend, *, rng: Random | None = None) -> None:
        self.name = name
        self.servers: list[Server] = []
        self.primaries: list[Server] = []
        self.backups: list[Server] = []
        self.peers: Peers | None = None
        # Other processes want to know what has failed here, when and why, and what has recovered:
        # by an answer (None), or by a check that began at this time.
        self.on_failed: Callable[[Server, float, str], None] | None = None
        self.on_recovered: Callable[[Server, float | None], None] | None = None
        self._is_settled = False  # while it is reconfigured nobody is served
        self._are_many_changing = False
        self._yields = True  # to requests that have waited longer in other processes
        self._rng = rng or Random()
        self._outlier = configured.outlier
        self.waiting: deque[Waiter] = deque()
        self.in_flight = 0  # leases held, on all servers
        self.waiting_elsewhere = 0  # in other processes, as far as anybody told
        self._now = float("-inf")  # the last time that anyone told us
        self.up: list[Server] = []  # primaries in rotation; a new list whenever anything changes
        self.weights: tuple[int, ...] = ()  # full ones, of `primaries`; new whenever one changes
        self.weights_are_equal = False
        self._configured_weights: list[int] = []  # of all servers
        self._present_weights: list[float] = []  # the same; lower in a slow start
        self._warming: list[Server] = []
        self._degraded: list[Server] = []
        self.outliers: Outliers | None = None
        # False: another process decides for all when too many are out, tells this one, and has the
        # log.
        self.is_leading = True
        self.in_panic = False  # all are out by passive failures alone, which count for nothing then
        self._failure_log = FailureLog(self)
        self.version = 0  # another one whenever anything about the servers has changed
        # A strategy that wants to know whose load has changed puts a set here, and clears it.
        self.touched: set[Server] | None = None
        self.is_sound = False  # nobody of `up` has failed: all are candidates that are not full
        self.is_steady = False  # and nobody can be full
        self.unserved = RequestCounters()  # requests that ended without a server
        # Hears of a server that its checks took down, and whether it stands still: it left them
        # unanswered, and none of its responses has moved meanwhile.
        self.on_marked_down: Callable[[Server, bool], None] | None = None
        # Hears of each change of a server's `snapshot`, the steps of a slow start aside.
        self.on_change: Callable[[Server], None] | None = None
        self.reconfigure(configured)

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {self.servers!r}, {len(self.waiting)} waiting>"

    def reconfigure(self, configured: config.Backend) -> list[Server]:
        """Have these servers from now on -> those that are gone; their leases go on.

        A server stays the one that it is, with its counts and its state, as long as its name and
        its address stay. Who waits for one that is gone is asked for another (`Waiter`).
        Nobody is served before `look_at_queue`: the caller may have to get ready for new servers.
        """
        self._is_settled = False
        known = {(s.name, s.config.address): s for s in self.servers}
        servers = []
        for one in configured.servers:
            server = known.pop((one.name, one.address), None)
            if server is None:
                server = Server(one)
            else:
                server.reconfigure(one)
            servers.append(server)
        gone = list(known.values())
        for server in gone:
            server.when_changed = server.when_decided = _nobody_listens
            server.set_admin("maint")
        is_same = servers == self.servers
        weights = [server.config.weight for server in servers]
        if not is_same or weights != self._configured_weights:
            # Whoever builds on these has to build anew, even if the present weights are equal.
            self.up, self.weights = [], ()
        self.servers, self._configured_weights = servers, weights
        self.primaries = [s for s in servers if not s.config.backup]
        self.backups = [s for s in servers if s.config.backup]
        for server in servers:
            server.is_lone = len(servers) == 1
            server.when_changed = self._changed
            server.when_decided = self._decided
        self._set_outliers(configured.outlier, is_same=is_same)
        self._changed()
        self._is_settled = True
        return gone

    def _set_outliers(self, configured: config.Outlier | None, *, is_same: bool) -> None:
        """A detector starts anew when its servers or its rules are others."""
        if configured is None:
            if self.outliers is not None:
                self.outliers = None
                for server in self.servers:
                    if server.is_ejected:
                        server.readmit()
        elif self.outliers is None or not is_same or configured != self._outlier:
            self.outliers = Outliers(self.name, self.servers, configured, self._rng)
        self._outlier = configured

    def _changed(self) -> None:
        """Keep what `candidates` needs on the common path, where nothing has failed.

        A strategy may build on `up` and `weights`, and build anew only when they are other objects.
        """
        if self._are_many_changing:
            return
        outliers = self.outliers if self.is_leading else None
        if outliers is not None and outliers.lift_what_is_too_much():
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
        self._degraded = [s for s in self.servers if s.is_degraded and s.is_in_rotation]
        self._warming = [s for s in self.servers if s.warmth < 1.0 and s.is_up]
        self.is_sound = bool(up) and not any(s.fails for s in up)
        self.is_steady = self.is_sound and not any(s.max_connections for s in up)
        self._judge_failures()
        if self._is_settled:
            self.look_at_queue()

    @contextmanager
    def many_changing(self) -> Iterator[None]:
        """Many servers change within it, each in O(1): what follows is found out at its end.

        Nothing else is asked of the pool meanwhile.
        """
        self._are_many_changing = True
        try:
            yield
        finally:
            self._are_many_changing = False
            self._changed()

    def _decided(self, server: Server) -> None:
        if self.on_change is not None:
            self.on_change(server)

    # Passive failures.

    def failed(self, server: Server, now: float, because: str) -> None:
        """A failure of the server's, as nginx's `max_fails` counts it; of any process."""
        self._now = max(self._now, now)
        server.failed(now, because)
        if self.is_leading:
            self._failure_log.changed(server, now)

    def answered(self, server: Server) -> None:
        """A server that had failures has answered a request here."""
        server.succeeded()
        if not server.fails:
            self._log_return(server, "it has answered a request")
            if self.on_recovered is not None:
                self.on_recovered(server, None)

    def check_passed(self, server: Server, began: float) -> None:
        """A check that began then was good: failures of before are forgiven."""
        if self.recovered(server, began) and self.on_recovered is not None:
            self.on_recovered(server, began)

    def recovered(self, server: Server, began: float | None) -> bool:
        """Another process says that it has answered a request (None), or a check that began then.

        False: there is nothing to forgive.
        """
        if not server.fails or (began is not None and began <= server.failed_at):
            return False
        server.recovered()
        self._log_return(
            server, "it has answered a request" if began is None else "its check is good"
        )
        return True

    def _log_return(self, server: Server, because: str) -> None:
        if self.is_leading:
            self._failure_log.changed(server, self._now, because)

    def _judge_failures(self) -> bool:
        """Begin or end a panic -> whether it did.

        It begins when no server that is in rotation otherwise may serve. Time alone does not end
        it, as that would show nothing: it ends when one of them is not failing any more, or none
        is in rotation. Each of the others is tried by one request then.
        """
        now = self._now
        if self.in_panic:
            holds = are_all(self.servers, lambda server: server.is_failing)
        elif self.is_sound:
            holds = False
        else:
            holds = are_all(self.servers, lambda server: server.has_failed(now))
        if holds == self.in_panic:
            return False
        self.in_panic = holds
        self.version += 1
        for server in self.servers:
            server.in_panic = holds
            if not holds:
                server.allow_probe()
        if self.is_leading:
            self._failure_log.panic_changed(now)
        return True

    # Who may serve.

    def find(self, name: str) -> Server | None:
        """The server of that name, which it does not share; None: there is none."""
        return next((server for server in self.servers if server.name == name), None)

    @property
    def queue_length(self) -> int:
        """Requests that wait, for one server or for any, in all processes."""
        return len(self.waiting) + self.waiting_elsewhere

    def candidates(self, tried: Collection[Server], now: float) -> list[Server]:
        """Servers that can take a request now: the primaries, or the backups if there is none, or
        degraded ones if nobody else may serve, now or soon; or those that are out for their
        failures, if all others have been tried.

        The list may be the pool's own: read it, and do not keep or change it.
        """
        if self.is_steady and not tried:
            return self.up
        for group in (self.up, self.backups):
            found = [s for s in group if s.weight and s not in tried and s.can_take(now)]
            if found:
                return found
        if self._degraded and self._is_last_resort(tried, now):
            found = [
                s for s in self._degraded if s not in tried and s.may_serve(now) and not s.is_full
            ]
            if found:
                return found
        if self.may_any_serve(tried, now):
            return []
        for group in (self.up, self.backups, self._degraded):
            found = [
                s
                for s in group
                if s.is_able and s.is_in_rotation and s not in tried and not s.is_full
            ]
            if found:
                return found
        return []

    def _is_last_resort(self, tried: Collection[Server], now: float) -> bool:
        """True if only degraded servers may take a request that is pinned to nobody."""
        return not any(
            s.weight and s.takes_new and s not in tried and s.may_serve(now) for s in self.servers
        )

    def may_any_serve(self, tried: Collection[Server], now: float) -> bool:
        """False if only servers that are out for their failures are left for such a request."""
        return any(s.is_in_rotation and s not in tried and s.may_serve(now) for s in self.servers)

    def can_wait(self, tried: Collection[Server]) -> bool:
        """True if some server could serve as soon as it is no longer full.

        Passive failures do not matter: where all others have been tried, those that failed serve.
        """
        return any(s.is_in_rotation and s not in tried and s.is_able for s in self.servers)

    def lease(self, server: Server, now: float) -> Lease:
        """Start using `server`, which a strategy picked from `candidates`."""
        lease, has_news = self._start(server, now)
        if has_news:
            self.look_at_queue()
        return lease

    def _start(self, server: Server, now: float) -> tuple[Lease, bool]:
        """The lease, and whether to look at the queue then.

        A probe takes its server out for another window. That can begin a panic, or leave a waiting
        request nothing but servers that fail, which serve it as a last resort.
        """
        self._now = now
        has_news = False
        if server.fails:
            was_out = server.has_failed(now)
            server.picked(now)
            if server.is_failing:
                has_news = not was_out and server.has_failed(now)
                has_news |= self._judge_failures()
        return Lease(self, server), has_news

    def claim(self, server: Server, now: float) -> Lease | None:
        """The same, where other processes lease too: None if one was faster at the last place.

        Each notes its lease first and looks at the others' then, so there are never too many.
        """
        lease, has_news = self._start(server, now)
        is_over = self.peers is not None and server.max_connections and self.peers.is_over(server)
        if is_over:
            lease.release()
        if has_news:
            self.look_at_queue()
        return None if is_over else lease

    def wait(self, waiter: Waiter) -> None:
        """Join the queue. Leave it by `leave`, or by `lease_granted` being called."""
        self.waiting.append(waiter)
        self._count(waiter, 1)
        if self.peers is not None:
            self.peers.queue_changed(self, waiter, joined=True)

    def leave(self, waiter: Waiter) -> None:
        """A request that gave up, or whose client did, leaves the queue."""
        self.waiting.remove(waiter)
        self._count(waiter, -1)
        if self.peers is not None:
            self.peers.queue_changed(self, waiter, joined=False)

    def _count(self, waiter: Waiter, change: int) -> None:
        """In the queue of the server that it is pinned to."""
        pinned = waiter.pinned_to
        if pinned is not None:
            pinned.queued += change
            if self.touched is not None:
                self.touched.add(pinned)

    def serve_waiting(self, server: Server) -> None:
        """While `server` has room: the first that may use it gets it, in order of arrival.

        A server that failed is judged by the last time we were told, which may only make it wait
        for the next `tick` to be tried again.
        """
        while not server.is_full and server.is_able:
            waiter = next((w for w in self.waiting if self._accepts(w, server)), None)
            if waiter is None:
                return
            peers = self.peers if self._yields else None
            if peers is not None and peers.is_others_turn(self, server, waiter):
                return
            lease, has_news = self._start(server, self._now)
            if self.peers is not None and server.max_connections and self.peers.is_over(server):
                lease.release()
                return
            self.leave(waiter)
            waiter.lease_granted(lease)
            if has_news:
                self.look_at_queue()

    def tick(self, now: float) -> None:
        """Call it about once a second: time alone lets a failed server be tried again, ends
        ejections, and goes on with slow starts."""
        self._now = now
        if self.outliers is not None:
            self.outliers.tick(now)
        for server in self._warming:
            server.warm_up(now)
        self._judge_failures()
        if self.is_leading:
            self._failure_log.tick(now)
        self._yields = False  # who waits elsewhere may be unable to use the place
        self.look_at_queue()
        self._yields = True

    def look_at_queue(self) -> None:
        """Whatever has changed: who waits and can be served is served."""
        if self.waiting:
            self._serve_all()

    def _serve_all(self) -> None:
        """Servers changed: first nobody waits for one that is out, if there is another."""
        self._leave_lost_servers()
        for server in (*self.primaries, *self.backups, *self._degraded):
            self.serve_waiting(server)

    def _leave_lost_servers(self) -> None:
        """Who waits for a server that is out waits for another one, or any, or is refused; all keep
        their places by arrival."""
        has_moved = False
        refused: list[tuple[Waiter, NoServer]] = []
        for waiter in self.waiting:
            pinned = waiter.pinned_to
            if pinned is None or pinned.may_serve(self._now):
                continue
            try:
                server = waiter.server_lost(self._now)
            except NoServer as refusal:
                # Without its frames, which would keep the waiter until the next collection.
                refused.append((waiter, refusal.with_traceback(None)))
                continue
            if server is not pinned:
                has_moved = True
                self._count(waiter, -1)
                waiter.pinned_to = server
                self._count(waiter, 1)
        if has_moved and self.peers is not None:
            self.peers.queue_moved(self)
        for waiter, error in refused:
            if waiter in self.waiting:  # what one of them does may be the end of others
                waiter.fail(error)

    def _accepts(self, waiter: Waiter, server: Server) -> bool:
        if waiter.pinned_to is not None:
            return waiter.pinned_to is server
        now, tried = self._now, waiter.tried
        return (
            server.is_in_rotation
            and server not in tried
            and (not server.is_degraded or self._is_last_resort(tried, now))
            and (server.may_serve(now) or not self.may_any_serve(tried, now))
        )


def _nobody_listens(*_: object) -> None:
    """What a server that is gone calls when it changes."""
