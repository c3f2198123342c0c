"""The servers of one backend, the leases on them, and the queue of requests that wait for one.

A lease starts when a server is picked and ends exactly once, when the last byte has left or the
tunnel has closed: `leastconn` counts on it.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from hermes_lb.backends.counters import RequestCounters
from hermes_lb.backends.failures import FailureLog, are_all
from hermes_lb.backends.outliers import Outliers
from hermes_lb.backends.server import Server
from hermes_lb.errors import NoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from hermes_lb.backends import options


class Lease:
    """The right to use a server, counted in `server.in_flight` until `release`."""

    __slots__ = ("_held", "_pool", "server", "ticket")

    def __init__(self, pool: Pool, server: Server) -> None:
        self._pool = pool
        self._held = True
        self.server = server
        self.ticket: Ticket | None = None
        server.in_flight += 1
        pool.in_flight += 1
        if pool.touched is not None:
            pool.touched.add(server)
        if pool.peers is not None:
            pool.peers.leased(server, 1)

    def release(self, output: int = -1) -> None:
        """Give it back. `output`: bytes of a response that came whole and is no error, else -1.

        Raises RuntimeError at a second call, which is a bug in the caller.
        """
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
        if self.ticket is not None:
            self.ticket.ended(output)
        if pool.waiting:
            pool.serve_waiting(server)
        if pool.peers is not None and server.max_connections and not server.is_full:
            pool.peers.has_room(pool, server)

    def __repr__(self) -> str:
        return f"<Lease on {self.server.name}, {'held' if self._held else 'released'}>"


class Waiter(Protocol):
    """A request in the queue."""

    pinned_to: Server | None  # waits for this server only; the pool re-pins it if that one is out

    @property
    def tried(self) -> Collection[Server]:
        """Servers that it has already failed on: it is not given these again."""

    def lease_granted(self, lease: Lease) -> None:
        """Called once, after it has left the queue.

        The caller is whatever made room: a `release`, a server that came up, a `tick`.
        """

    def server_lost(self, now: float) -> Server | None:
        """The server it is pinned to is unavailable -> the server to wait for now, None for any.

        If it is the same server, the request keeps waiting and is asked again. Raises NoServer if
        no other server may have it; `fail` follows. It must not change anything: the queue is being
        iterated.
        """

    def fail(self, error: NoServer) -> None:
        """No server may serve it. It has to call `leave`."""


class Ticket(Protocol):
    """What a strategy remembers of one lease."""

    def ended(self, output: int) -> None:
        """The lease has ended; `output` as in `Lease.release`."""


class Follower(Protocol):
    """A strategy that follows the requests of its pool (`balancing.base.Tracker`)."""

    def started(self, server: Server, request: Any, now: float) -> Ticket | None:
        """`request` has a lease on `server`: picked, from the queue, or of its session."""

    def has_room(self, server: Server, now: float) -> bool:
        """False: requests of no session wait in the queue rather than at this server."""

    def joined(self, waiter: Waiter) -> None:
        """A request waits."""

    def left(self, waiter: Waiter) -> None:
        """It waits no more: it is served, or has given up."""

    def next_waiter(self, first: Waiter, accepts: Callable[[Waiter], bool]) -> Waiter:
        """The waiting request to serve next, of those that `accepts` is true for; `first` is the
        one of them that waits longest."""


class Starter(Protocol):
    """A request that waits for a first server."""

    def server_is_up(self) -> None:
        """Called once, after it has left that queue: it chooses among the servers again."""


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

    def queue_advanced(self, pool: Pool) -> None:
        """Requests wait for another server than before, or for any, at their old places."""

    def is_others_turn(self, pool: Pool, server: Server, waiter: Waiter) -> bool:
        """True if a request has waited longer elsewhere for this place; its process is woken."""

    def has_room(self, pool: Pool, server: Server) -> None:
        """No request here waits for the place on `server`: wake a process in which one does."""


class Pool:
    """The servers of one backend. `rng` is for the lengths of ejections."""

    def __init__(
        self, name: str, configured: options.Backend, *, rng: Random | None = None
    ) -> None:
        self.name = name
        self.servers: list[Server] = []
        self._configured: list[Server] = []
        self._discovered: dict[str, Server] = {}
        # A discovery may find servers at any time: requests wait while there are none.
        self.expects_servers = False
        self.primaries: list[Server] = []
        self.backups: list[Server] = []
        self.peers: Peers | None = None
        # Called for other processes: a failure, when and why; and a recovery, by an answer (None)
        # or by a check that began at this time.
        self.on_failed: Callable[[Server, float, str], None] | None = None
        self.on_recovered: Callable[[Server, float | None], None] | None = None
        self._is_settled = False  # while it is reconfigured no request is served
        self._are_many_changing = False
        self._yields = True  # to requests that have waited longer in other processes
        self._rng = rng or Random()
        self._outlier = configured.outlier
        self.waiting: deque[Waiter] = deque()
        self.starting: deque[Starter] = deque()  # no server is up: they wait for the first one
        self.in_flight = 0  # leases held, on all servers
        self.waiting_elsewhere = 0  # in other processes, as last reported
        self._now = float("-inf")  # the last time that was an argument
        self.up: list[Server] = []  # primaries in rotation; a new list whenever anything changes
        self.weights: tuple[int, ...] = ()  # full ones, of `primaries`; new whenever one changes
        self.weights_are_equal = False
        self._configured_weights: list[int] = []  # of all servers
        self._present_weights: list[float] = []  # the same; lower in a slow start
        self._warming: list[Server] = []
        self._degraded: list[Server] = []
        self.outliers: Outliers | None = None
        # False: another process decides for all when too many are out, and writes the log.
        self.is_leading = True
        self.in_panic = False  # all are out by passive failures alone, which count for nothing then
        self._failure_log = FailureLog(self)
        self.version = 0  # another one whenever anything about the servers has changed
        # A strategy that follows changes of load puts a set here, and clears it.
        self.touched: set[Server] | None = None
        self.follower: Follower | None = None  # a strategy that sets itself
        self.is_sound = (
            False  # no server of `up` has failures: all that are not full are candidates
        )
        self.is_steady = False  # and no server can be full
        self.unserved = RequestCounters()  # requests that ended without a server
        # Called with a server that its checks took down, and whether it hangs: it left them
        # unanswered, and none of its responses has made progress meanwhile.
        self.on_marked_down: Callable[[Server, bool], None] | None = None
        # Called at each change of a server's `snapshot`, except for the steps of a slow start.
        self.on_change: Callable[[Server], None] | None = None
        self.reconfigure(configured)

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {self.servers!r}, {len(self.waiting)} waiting>"

    def reconfigure(self, configured: options.Backend) -> list[Server]:
        """Replace the servers -> those that were removed; their leases continue.

        A server with the same name and address keeps its counters and its state. A request that
        waits for a removed one is asked for another (`Waiter.server_lost`). No request is served
        before `look_at_queue`: the caller may have to prepare for new servers first.
        """
        self._is_settled = False
        known = {(s.name, s.config.address): s for s in self._configured}
        servers = []
        for one in configured.servers:
            if one.resolve is not None:
                continue  # its addresses are discovered
            server = known.pop((one.name, one.address), None)
            if server is None:
                server = Server(one)
            else:
                server.reconfigure(one)
            servers.append(server)
        gone = list(known.values())
        self._configured = servers
        # The server of the file has the name; the other comes back when it is found again.
        for server in servers:
            displaced = self._discovered.pop(server.name, None)
            if displaced is not None:
                gone.append(displaced)
        self._let_go(gone)
        is_same = self._set_servers()
        self._set_outliers(configured.outlier, is_same=is_same)
        self._changed()
        self._is_settled = True
        return gone

    def discover(
        self, servers: Iterable[options.Server], gone: Iterable[str]
    ) -> tuple[list[Server], list[Server]]:
        """Add or change servers of a discovery, by name, and remove others -> those that are new or
        have changed, and those that were removed.

        A name of the configuration belongs to the server there. As with `reconfigure`, leases of
        removed servers continue, and no request is served before `look_at_queue`.
        """
        self._is_settled = False
        removed: list[Server] = []
        for name in gone:
            lost = self._discovered.pop(name, None)
            if lost is not None:
                removed.append(lost)
        taken = {server.name for server in self._configured}
        changed: list[Server] = []
        with self.many_changing():
            self._let_go(removed)
            for one in servers:
                if one.name in taken:
                    continue
                server = self._discovered.get(one.name)
                if server is not None and server.config.identity != one.identity:
                    self._let_go([server])
                    removed.append(server)
                    server = None
                if server is None:
                    self._discovered[one.name] = server = Server(one)
                    server.when_changed = self._changed
                    server.when_decided = self._decided
                else:
                    server.reconfigure(one)
                changed.append(server)
            self._set_servers()
            if self.outliers is not None:
                self.outliers.follow(self.servers)
        self._is_settled = True
        return changed, removed

    @property
    def has_discovered(self) -> bool:
        """A discovery has found servers."""
        return bool(self._discovered)

    def _let_go(self, gone: list[Server]) -> None:
        for server in gone:
            server.when_changed = server.when_decided = _no_listener
            server.set_admin("maint")

    def _set_servers(self) -> bool:
        """Of the configuration and of the discovery -> True if they are the same as before."""
        servers = [*self._configured, *self._discovered.values()]
        weights = [server.config.weight for server in servers]
        before = self.servers
        if servers != before or weights != self._configured_weights:
            # Strategies that build on these must rebuild, even if the present weights are equal.
            self.up, self.weights = [], ()
        self.servers, self._configured_weights = servers, weights
        self.primaries = [s for s in servers if not s.config.backup]
        self.backups = [s for s in servers if s.config.backup]
        is_only = len(servers) == 1
        if is_only or len(before) <= 1:
            for server in servers:
                server.is_only_server = is_only
        for server in self._configured:
            server.when_changed = self._changed
            server.when_decided = self._decided
        return servers == before

    def _set_outliers(self, configured: options.Outlier | None, *, is_same: bool) -> None:
        """A new detector if a reload has changed the rules or the servers."""
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
        """Precompute what `candidates` needs on the common path, where nothing has failed.

        A strategy may build on `up` and `weights`, and rebuild only when they are other objects.
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
        """Batch changes of many servers, each in O(1); the consequences are computed at the end.

        The pool must not be used otherwise meanwhile.
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
        """A passive failure, as nginx's `max_fails` counts it, in any process."""
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
        """A check that began at `began` was good: earlier failures are cleared."""
        if self.recovered(server, began) and self.on_recovered is not None:
            self.on_recovered(server, began)

    def recovered(self, server: Server, began: float | None) -> bool:
        """The same of another process: it answered a request (None), or a check that began then.

        False: there were no failures to clear.
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

        It begins when no server that is otherwise in rotation may serve. The end of `fail_timeout`
        does not end it, since that proves nothing: it ends when one of them is no longer failing,
        or none is in rotation. Then each of the others is probed by one request.
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

    # Selection.

    def find(self, name: str) -> Server | None:
        """The server of that name (names are unique), or None."""
        found = self._discovered.get(name)
        if found is not None:
            return found
        return next((server for server in self._configured if server.name == name), None)

    @property
    def queue_length(self) -> int:
        """Requests that wait, for one server or for any, in all processes."""
        return len(self.waiting) + len(self.starting) + self.waiting_elsewhere

    def candidates(self, tried: Collection[Server], now: float) -> list[Server]:
        """Servers that can take a request now: the primaries, or the backups if there is none, or
        degraded ones if no other server may serve, now or soon; or the failing ones, if all others
        have been tried.

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
        """True if only degraded servers may take a request that is not pinned."""
        return not any(
            s.weight and s.takes_new and s not in tried and s.may_serve(now) for s in self.servers
        )

    def may_any_serve(self, tried: Collection[Server], now: float) -> bool:
        """False if only failing servers are left for such a request."""
        return any(s.is_in_rotation and s not in tried and s.may_serve(now) for s in self.servers)

    @property
    def is_any_up(self) -> bool:
        """True if some server may get requests that are not pinned, apart from passive failures."""
        return any(s.is_in_rotation and s.is_able for s in self.servers)

    def can_wait(self, tried: Collection[Server]) -> bool:
        """True if some server could serve as soon as it is no longer full; or if all are leaving,
        or there are none, and a discovery may find others.

        Passive failures do not matter: where all others have been tried, those that failed serve.
        """
        if any(s.is_in_rotation and s not in tried and s.is_able for s in self.servers):
            return True
        return self.expects_servers and not any(s.is_in_rotation for s in self.servers)

    def lease(self, server: Server, now: float, request: Any = None) -> Lease:
        """Start using `server`, which a strategy picked from `candidates`, for `request`."""
        self._now = now
        has_news = server.fails and self._picked(server, now)
        lease = Lease(self, server)
        if self.follower is not None and request is not None:
            lease.ticket = self.follower.started(server, request, now)
        if has_news:
            self.look_at_queue()
        return lease

    def _picked(self, server: Server, now: float) -> bool:
        """A server that had failures gets a request -> whether to look at the queue then.

        A probe takes its server out for another window. That can begin a panic, or leave a waiting
        request nothing but servers that fail, which serve it as a last resort.
        """
        was_out = server.has_failed(now)
        server.picked(now)
        if not server.is_failing:
            return False
        has_news = not was_out and server.has_failed(now)
        return self._judge_failures() or has_news

    def claim(self, server: Server, now: float, request: Any = None) -> Lease | None:
        """`lease` where other processes lease too: None if one of them got the last place.

        Each process writes its own lease before it reads the others', so the limit always holds.
        """
        self._now = now
        has_news = server.fails and self._picked(server, now)
        lease = Lease(self, server)
        is_over = self.peers is not None and server.max_connections and self.peers.is_over(server)
        if is_over:
            lease.release()
        elif self.follower is not None and request is not None:
            lease.ticket = self.follower.started(server, request, now)
        if has_news:
            self.look_at_queue()
        return None if is_over else lease

    def wait(self, waiter: Waiter) -> None:
        """Join the queue. Leave it by `leave`, or by `lease_granted` being called."""
        self.waiting.append(waiter)
        self._count(waiter, 1)
        if self.follower is not None:
            self.follower.joined(waiter)
        if self.peers is not None:
            self.peers.queue_changed(self, waiter, joined=True)

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue: the request timed out, or its client has left."""
        self.waiting.remove(waiter)
        self._count(waiter, -1)
        if self.follower is not None:
            self.follower.left(waiter)
        if self.peers is not None:
            self.peers.queue_changed(self, waiter, joined=False)

    def await_server(self, waiter: Starter) -> None:
        """Wait for the first server that comes up. Leave by `leave_start`, or by `server_is_up`."""
        self.starting.append(waiter)

    def leave_start(self, waiter: Starter) -> None:
        self.starting.remove(waiter)

    def _count(self, waiter: Waiter, change: int) -> None:
        """In the queue of the server that it is pinned to."""
        pinned = waiter.pinned_to
        if pinned is not None:
            pinned.queued += change
            if self.touched is not None:
                self.touched.add(pinned)

    def serve_waiting(self, server: Server) -> None:
        """While `server` has room: the first that may use it gets it, in order of arrival, or in
        the follower's.

        Failures are judged by the last known time, so a failing server may have to wait for the
        next `tick` to be probed. The turns of processes go by arrival alone: with an order that
        each has for itself, two of them could give way to each other for ever.
        """
        follower = self.follower
        while not server.is_full and server.is_able:
            has_room = follower is None or follower.has_room(server, self._now)
            if not has_room and not server.queued:
                return
            waiter = next((w for w in self.waiting if self._accepts(server, has_room, w)), None)
            if waiter is None:
                return
            peers = self.peers if self._yields else None
            if peers is not None and peers.is_others_turn(self, server, waiter):
                return
            if follower is not None:
                accepts = partial(self._accepts, server, has_room)
                waiter = follower.next_waiter(waiter, accepts)
            has_news = server.fails and self._picked(server, self._now)
            lease = Lease(self, server)
            if self.peers is not None and server.max_connections and self.peers.is_over(server):
                lease.release()
                return
            self.leave(waiter)
            if follower is not None:
                lease.ticket = follower.started(server, waiter, self._now)
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
        self._yields = False  # a request that waits elsewhere may be unable to use the place
        self.look_at_queue()
        self._yields = True

    def look_at_queue(self) -> None:
        """Serve the waiting requests that can be served now."""
        if self.starting and self.is_any_up:
            self._start()
        if self.waiting:
            self._serve_all()

    def _start(self) -> None:
        """A server is up: each request chooses by the strategy, in order of arrival."""
        for _ in range(len(self.starting)):
            if self.starting:  # one may have ended others
                self.starting.popleft().server_is_up()

    def _serve_all(self) -> None:
        """First re-pin the requests whose server is unavailable, then serve by arrival."""
        self._leave_lost_servers()
        for server in (*self.primaries, *self.backups, *self._degraded):
            self.serve_waiting(server)

    def _leave_lost_servers(self) -> None:
        """Re-pin, unpin or fail waiters whose server is unavailable; the order of arrival stays."""
        saw_progress = False
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
                saw_progress = True
                self._count(waiter, -1)
                waiter.pinned_to = server
                self._count(waiter, 1)
        if saw_progress and self.peers is not None:
            self.peers.queue_advanced(self)
        for waiter, error in refused:
            if waiter in self.waiting:  # failing one may have ended others
                waiter.fail(error)

    def _accepts(self, server: Server, has_room: bool, waiter: Waiter) -> bool:
        if waiter.pinned_to is not None:
            return waiter.pinned_to is server
        now, tried = self._now, waiter.tried
        return (
            has_room
            and server.is_in_rotation
            and server not in tried
            and (not server.is_degraded or self._is_last_resort(tried, now))
            and (server.may_serve(now) or not self.may_any_serve(tried, now))
        )


def _no_listener(*_: object) -> None:
    """The callbacks of a removed server."""
