"""Affinity, then strategy: which server takes a request, or must it wait?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mypy_extensions import trait

from hermes_lb.affinity import CookieAffinity, KeyRules
from hermes_lb.affinity.table import SessionTable
from hermes_lb.backends import Pool
from hermes_lb.backends.dialing import Dialer
from hermes_lb.balancing import ConsistentHash, Learner, make
from hermes_lb.balancing.hashing import HashOptions
from hermes_lb.errors import NoServer, Retry, SessionLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from random import Random

    from hermes_lb import config
    from hermes_lb.affinity import SessionKey
    from hermes_lb.affinity.stores.base import SharedStore
    from hermes_lb.backends import Lease, Server
    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.errors import ExchangeFailed
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.ports import ConnectionPool, MakePool
    from hermes_lb.tasks import Tasks

# Of requests that wait for a first server, where `max_queue` sets no limit.
_MOST_STARTING = 1000


@trait
class Seeker:
    """A request that looks for a server.

    - `client_address`, `request_head`, `tried`: as strategies see them (`balancing.base.Request`).
    - `pinned_to`, `session_key`: of its session, if it has one.
    """

    __slots__ = ()

    client_address: str
    request_head: bytes
    tried: tuple[Server, ...]
    pinned_to: Server | None
    session_key: SessionKey | None

    def pin(self, server: Server | None) -> None:
        """Another server is the one of its session."""
        raise NotImplementedError


class Pin(NamedTuple):
    """A session key, and its server; None: any. `is_known`: False: ask `find_shared` first."""

    key: SessionKey | None
    server: Server | None
    is_known: bool


class Discovered(NamedTuple):
    """The servers that a change of a discovery concerns: new and changed ones, and removed ones."""

    changed: list[Server]
    removed: list[Server]


class Backend:
    """A pool of servers with what picks among them and the connections to them."""

    def __init__(
        self,
        name: str,
        configured: config.Backend,
        make_pool: MakePool,
        *,
        clock: Callable[[], float],
        rng: Random,
        tasks: Tasks,
        shared_store: Callable[[str], SharedStore] | None = None,
    ) -> None:
        """`shared_store`: by backend, the one of the sessions that all processes learn.

        Raises ConfigError if a file that TLS to the servers needs can't be had.
        """
        self._make_pool = make_pool
        self._clock = clock
        self._rng = rng
        self._tasks = tasks
        self._shared_store = shared_store
        self.name = name
        self.host = name.encode()  # for the Host field of HTTP/1.0 requests without one
        self.pool = Pool(name, configured, rng=rng)
        self.pool.expects_servers = configured.discovery is not None
        self.connections: dict[Server, ConnectionPool] = {}
        self._gone: list[Server] = []  # removed; something may still run on them
        # The servers of keys that are hashed, not learned: the same on every balancer.
        self._ring = ConsistentHash(HashOptions(load_factor=0.0))
        self.configured = configured
        self.session_table = self._table(configured)
        self.has_turns = False  # a route with turns leads here
        self._set_strategy(configured)
        self._set_up(configured, Dialer.of(name, configured))

    def _table(self, configured: config.Backend) -> SessionTable:
        return SessionTable(
            self.name,
            configured.pins,
            clock=self._clock,
            tasks=self._tasks,
            shared=self._shared_store,
        )

    def _set_strategy(self, configured: config.Backend) -> None:
        self.strategy = make(configured.balance, configured.strategy, configured.code)
        self.learner = self.strategy if isinstance(self.strategy, Learner) else None

    def _set_up(self, configured: config.Backend, dialer: Dialer) -> None:
        """Rebuild what is cheap to build, for the pool's present servers."""
        servers = self.pool.servers
        self.dialer = dialer
        self.retries = configured.retries
        self.is_logged = configured.access_log
        self.wait_for_server = configured.wait_for_server
        self._max_queue = configured.max_queue
        self.outliers = self.pool.outliers
        # Whether each response has to be seen (`answered`).
        self.observes = self.outliers is not None or self.learner is not None
        self.affinity = (
            CookieAffinity(configured.affinity, servers) if configured.affinity else None
        )
        self.key_rules = KeyRules(configured.stick) if configured.stick else None
        self._by_name = {server.name: server for server in servers}
        for server in servers:
            self._connect(server)
        for server in self.connections.keys() - {*servers, *self._gone}:
            self._leave(server)
        self._forget_gone()

    def _connect(self, server: Server) -> None:
        """Connections to a server that is new, or by the present rules and its present address."""
        configured, dialer = self.configured, self.dialer
        pool = self.connections.get(server)
        if pool is not None and pool.speaks_http2 is not dialer.speaks_http2:
            pool.retire()
            pool = None
        if pool is None:
            self.connections[server] = self._make_pool(
                server,
                keep=configured.keep_alive,
                idle_timeout=configured.keep_alive_timeout,
                dialer=dialer,
            )
        else:
            pool.reconfigure(
                keep=configured.keep_alive,
                idle_timeout=configured.keep_alive_timeout,
                dialer=dialer,
            )

    def _leave(self, server: Server) -> None:
        """It was removed; what runs on it may end."""
        self.connections[server].retire()
        self._gone.append(server)

    def _forget_gone(self) -> None:
        """Removed servers on which nothing runs any more; the others are asked the next time."""
        gone, self._gone = self._gone, []
        for server in gone:
            if server.in_flight:
                self._gone.append(server)
            elif self.connections.pop(server, None) is not None:
                self.strategy.forget(server)

    def reconfigure(
        self,
        configured: config.Backend,
        dialer: Dialer,
        before_serving: Callable[[], None] = lambda: None,
    ) -> None:
        """Change the rules in place, without disturbing requests in flight.

        `before_serving` is called when the pool has its servers, which no request has got yet.
        """
        before, self.configured = self.configured, configured
        if not before.has_strategy_of(configured):
            self.strategy.detach(self.pool)
            self._set_strategy(configured)
        self.pool.expects_servers = configured.discovery is not None
        self.pool.reconfigure(configured)
        self._set_up(configured, dialer)
        before_serving()
        if before.pins != configured.pins:
            old, self.session_table = self.session_table, self._table(configured)
            self.session_table.take_over(old)
            self._tasks.spawn(old.close(), name="close pins")
        self.pool.look_at_queue()

    def discover(self, servers: Iterable[DiscoveredServer], gone: Iterable[str]) -> Discovered:
        """Servers of its discovery are new or have changed; those of these names are gone.

        The costs are those of these servers; only the pool's own lists are made again. No request
        is served before the pool's `look_at_queue`.
        """
        changed, removed = self.pool.discover(servers, gone)
        for server in removed:
            self._by_name.pop(server.name, None)
            if self.affinity is not None:
                self.affinity.remove(server)
            self._leave(server)
        for server in changed:
            self._by_name[server.name] = server
            self._connect(server)
            if self.affinity is not None:
                self.affinity.add(server)
        self._forget_gone()
        return Discovered(changed, removed)

    def retire(self) -> None:
        """It gets no more requests; those in flight continue, and queued ones are served."""
        for connections in self.connections.values():
            connections.retire()

    @property
    def is_quiet(self) -> bool:
        return not (self.pool.in_flight or self.pool.waiting or self.pool.starting)

    def server_named(self, name: str) -> Server | None:
        """None: it has left the configuration."""
        return self._by_name.get(name)

    def answered(self, server: Server, head: ResponseHead, took: float, now: float) -> None:
        """A response's head has arrived; `took`: seconds since the request was dispatched."""
        if server.fails:
            self.pool.answered(server)
        if self.outliers is not None:
            self.outliers.answered(server, head.status, now)
        if self.learner is not None:
            self.learner.answered(server, head, took, now)

    def failed(self, server: Server, now: float, because: str) -> None:
        """A failure of the server's, as nginx's `max_fails` counts it."""
        self.pool.failed(server, now, because)
        if self.outliers is not None:
            self.outliers.failed(server, now)
        if self.pool.on_failed is not None:
            self.pool.on_failed(server, now, because)

    @property
    def shuts_down_sessions(self) -> bool:
        """True if all requests on a server end or leave when it is marked down."""
        return self.configured.on_marked_down == "shutdown_sessions"

    def load_reported(self, server: Server, load: float, now: float) -> None:
        """A server, of this backend or another, has reported its load in a health check."""
        if server in self.connections:
            self.strategy.load_reported(server, load, now)

    def stick(self, request: bytes, client_address: str, now: float) -> Pin:
        """The server of a request by its key, if it has one. `request`: its head, and its body if
        that is there.

        Raises NoServer if its session's server is gone, and no other one may serve it.
        """
        assert self.key_rules is not None
        session = self.key_rules.find(request, client_address)
        if session is None:
            return Pin(None, None, True)
        if not session.rule.learns:
            is_strict = session.rule.is_strict
            owner = self._ring.owner(self.pool, session.key, now, is_strict=is_strict)
            return Pin(session, owner, True)
        name = self.session_table.find(session.key, now)
        is_known = name is not None or not self.session_table.is_shared
        return Pin(session, self._learnt_owner(session, name), is_known)

    async def find_shared(self, session: SessionKey) -> Server | None:
        """The server that another balancer knows of. Raises NoServer as `stick` does."""
        return self._learnt_owner(session, await self.session_table.look_up(session.key))

    def _learnt_owner(self, session: SessionKey, name: str | None) -> Server | None:
        if name is None:
            return None
        server = self._by_name.get(name)
        if server is None and session.rule.is_strict:
            reason = f"{name}, which has the session, is no server of {self.name} any more"
            raise _lost(session, reason)
        return server

    def learn(
        self, session: SessionKey | None, server: Server, head: ResponseHead, now: float
    ) -> Awaitable[object] | None:
        """Learn the session key of a response -> an awaitable that ends when other balancers know
        it, as the client may ask them once it has the response; None: they do."""
        assert self.key_rules is not None
        return self.assign(self.key_rules.learnt(session, head), server, now)

    def assign(self, keys: list[bytes], server: Server, now: float) -> Awaitable[object] | None:
        """These sessions are this server's; returns as `learn` does."""
        return self.session_table.store(keys, server.name, now)

    def choose(self, seeker: Seeker, now: float) -> Lease | None:
        """A lease on the picked server; None: the request has to wait in the queue.

        Raises NoServer if no server can take it, now or soon, or if too many wait already.
        """
        pool = self.pool
        while (server := self._pick(seeker, now)) is not None:
            if pool.peers is None:
                return pool.lease(server, now, seeker)
            lease = pool.claim(server, now, seeker)
            if lease is not None:
                return lease  # otherwise it is full by now: another one, or the queue
        most = self._max_queue
        if not most and seeker.pinned_to is None and self.must_await_server:
            most = _MOST_STARTING
        if most and pool.queue_length >= most:
            raise NoServer(f"{pool.queue_length} requests wait for a server of {self.name} already")
        return None

    @property
    def must_await_server(self) -> bool:
        """No server is up, and requests wait for the first one (`wait_for_server`)."""
        return self.wait_for_server > 0.0 and not self.pool.is_any_up

    def _pick(self, seeker: Seeker, now: float) -> Server | None:
        pool = self.pool
        pinned = seeker.pinned_to
        if pinned is None or not pinned.may_serve(now):
            session = seeker.session_key
            heir = None if session is None else self._heir(seeker, session, now)
            if heir is not pinned:
                seeker.pin(heir)
                pinned = heir
        if pinned is None:
            server = self.strategy.pick(pool, seeker, now, self._rng)
            if server is not None:
                return server
            if not pool.can_wait(seeker.tried) and not self.must_await_server:
                raise NoServer(f"no server of {self.name} is available")
            return None
        if not pinned.is_full:
            return pinned
        return None

    def server_lost(self, seeker: Seeker, now: float) -> Server | None:
        """The server that a queued request waits for now that its server is out; None: any server.

        While no server is available, a hashed key waits where it is: otherwise the first server to
        return would serve it, not the key's owner then. Raises NoServer if no other one may.
        """
        session = seeker.session_key
        if session is None:
            return None
        heir = self._heir(seeker, session, now)
        if heir is None and not session.rule.learns:
            return seeker.pinned_to
        return heir

    def given_up(self, seeker: Seeker, error: ExchangeFailed) -> ExchangeFailed:
        """What a request that is not retried any more gets: its session may have been lost too."""
        session = seeker.session_key
        if session is None or seeker.pinned_to is None or error.retry is not Retry.SAFE:
            return error
        return SessionLost(str(error)) if session.rule.ends_with_server else error

    def _heir(self, seeker: Seeker, session: SessionKey, now: float) -> Server | None:
        """The next owner of a hashed key, without the servers tried, as for its next requests.

        None: the key is not hashed, or no server is available. Raises NoServer if only the server
        that it is pinned to may serve it. Passive failures do not take out such a server: no other
        one can answer instead.
        """
        pinned = seeker.pinned_to
        if session.rule.is_strict and pinned is not None:
            if pinned.is_able:
                return pinned
            raise _lost(session, f"{pinned.name}, which has the session, is not available")
        if session.rule.learns:
            return None
        return self._ring.owner(self.pool, session.key, now, tried=seeker.tried)


def _lost(session: SessionKey, reason: str) -> NoServer:
    return SessionLost(reason) if session.rule.ends_with_server else NoServer(reason)
