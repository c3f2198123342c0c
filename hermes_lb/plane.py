"""The whole data path of one process: frontends, backends, and what they share."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from hermes_lb.backends.dialing import Dialer
from hermes_lb.listen.connection_limit import ConnectionLimit
from hermes_lb.listen.frontend import Frontend
from hermes_lb.listen.sockets import listening_socket
from hermes_lb.observe import certificates
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.observe.observed import ProcessView
from hermes_lb.observe.recorder import Recorder
from hermes_lb.observe.request_log import RequestLog
from hermes_lb.proxy import end_sessions, running_sessions, saw_progress
from hermes_lb.proxy.context import Context
from hermes_lb.proxy.deadlines import Sweep
from hermes_lb.proxy.http1.connection_pool import ServerConnections
from hermes_lb.proxy.http2.connection_pool import SharedConnections
from hermes_lb.proxy.moving import leave_server
from hermes_lb.proxy.record import record_exchange
from hermes_lb.proxy.select import Backend
from hermes_lb.proxy.turn_gateway import TurnGateway
from hermes_lb.tasks import Tasks
from hermes_lb.tls.certificates import check_certificates
from hermes_lb.tls.ticket_keys import TicketSecret
from hermes_lb.turns.secret import turn_secret

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from hermes_lb import config
    from hermes_lb.affinity.stores.base import SharedStore
    from hermes_lb.backends import FrontendCounters, Pool, Server
    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.config import Bind, Config
    from hermes_lb.observe.certificates import CertificateView
    from hermes_lb.observe.recent import Recent
    from hermes_lb.observe.spans import Spans
    from hermes_lb.proxy.ports import Connection, ConnectionPool
    from hermes_lb.proxy.select import Discovered
    from hermes_lb.tls.certificates import TlsFiles
    from hermes_lb.turns.options import StoreOptions
    from hermes_lb.turns.ports import TurnStore

    # Ready-made listening sockets: a group for each bind, by the frontend's name and the address.
    Sockets = Mapping[tuple[str, str], Sequence[socket.socket]]

# Seconds for closed transports to report that; they do so in the next loop iterations.
_CLOSING_TAKES = 5.0


def request_log(
    configured: config.Log, access_log: Callable[..., AccessLog] | None = None
) -> RequestLog:
    """The log of `[log]`, not started. `access_log` may make another kind."""
    make = access_log or AccessLog
    log = make(configured.access, facility=configured.facility, tag=configured.tag)
    return RequestLog(Recorder(configured), log)


async def open_turn_store(
    options: StoreOptions, on_incarnation: Callable[[str], None]
) -> TurnStore:
    """The store of `[store]`."""
    from hermes_lb.turns.store.opening import open_store  # hiredis is for those who use it

    return await open_store(options, on_incarnation)


class DataPlane:
    """`await open()`, `await listen()`, and at the end perhaps `drain`, and `await stop()`.

    `pools` and `counters` are live: they have whatever a `reconfigure` has added. `tls_files` by
    frontend: files that were found good before, in use until there are good ones on the disk.
    `make_log` makes every log of requests that it has, at the start and whenever `[log]` changes.

    `tickets` and `shared_store` may be set by `before_backends`, if processes share them.
    """

    def __init__(
        self,
        configured: Config,
        *,
        process_number: int = 0,
        tls_files: Mapping[str, TlsFiles] | None = None,
        make_log: Callable[[config.Log], RequestLog] = request_log,
    ) -> None:
        self.config = configured
        self._make_log = make_log
        self._tls_files = tls_files or {}
        self.process = ProcessView(process_number, os.getpid())
        self.frontends: list[Frontend] = []
        self.backends: dict[str, Backend] = {}
        self.pools: dict[str, Pool] = {}
        self.counters: dict[str, FrontendCounters] = {}
        self._leaving: list[Backend] = []  # gone from the configuration, but not quiet yet
        self._tasks = Tasks()
        self._running = AsyncExitStack()
        self._context: Context | None = None
        self.tickets = TicketSecret.new()
        # By backend: the store of sessions that all processes learn; None: one process.
        self.shared_store: Callable[[str], SharedStore] | None = None
        # Called with this process's id in the store of turns, for the process that observes it.
        self.on_incarnation: Callable[[str], None] = lambda incarnation: None

    def __repr__(self) -> str:
        return f"<DataPlane {'running' if self._context else 'stopped'}, {self.frontends!r}>"

    @property
    def context(self) -> Context:
        """What all connections share; there is one while it runs."""
        if self._context is None:
            raise RuntimeError("it does not run")
        return self._context

    @property
    def recent(self) -> Recent:
        """The last requests that ended abnormally."""
        return self.context.recent

    @property
    def is_running(self) -> bool:
        return self._context is not None

    # Its life.

    async def open(
        self,
        before_backends: Callable[[DataPlane], None] | None = None,
        *,
        log_may_be_late: bool = False,
    ) -> None:
        """All but the listeners. If anything can't be had, nothing is left open.

        `log_may_be_late`: an access log that can't be opened is no reason not to serve.
        """
        self.frontends.clear()
        for register in (self.backends, self.pools, self.counters):
            register.clear()
        async with AsyncExitStack() as starting:
            log = self._make_log(self.config.log)
            self._log, self._spans = log.access_log, log.recorder.spans
            await self._log.start(may_be_late=log_may_be_late)
            starting.push_async_callback(self._close_log)
            loop = asyncio.get_running_loop()
            self._context = context = Context(self.config, loop, log, self._tasks, record_exchange)
            context.live.gate = ConnectionLimit(self.config.process.max_connections, context.live)
            starting.callback(self._forget)
            if before_backends is not None:
                before_backends(self)
            for name, configured in self.config.backends.items():
                self._add_backend(name, configured)
            starting.push_async_callback(self._close_pins)
            starting.push_async_callback(self._close_turns)
            await self._open_turns(self.config)
            self._mark_backends_with_turns()
            sweep = Sweep(context, self._swept)
            sweep.start()
            starting.callback(sweep.stop)
            starting.callback(self.process.loop_lag.stop)
            self.frontends += map(self._frontend, self.config.frontends)
            self.counters.update((one.name, one.counters) for one in self.frontends)
            starting.push_async_callback(self._stop_frontends)
            self._running = starting.pop_all()

    async def listen(self, sockets: Sockets | None = None) -> None:
        """Let clients in. Raises OSError if an address can't be had; `stop` is due then."""
        for frontend, configured in zip(self.frontends, self.config.frontends, strict=True):
            await frontend.start(_groups(configured, sockets))
        self.process.loop_lag.start()

    async def drain(self, timeout: float) -> bool:
        """Stop accepting and let requests in flight finish, for `timeout` seconds at most.

        A new client is served, and an idle one may send one more request within a second: it may be
        on its way. Returns whether all requests have finished. `stop` is still to be called.
        """
        context = self._context
        if context is None:
            return True
        context.live.start_draining()
        await self._stop_frontends()
        self._close_gracefully(context.live.clients)
        for backend in self._all_backends():
            for connections in backend.connections.values():
                connections.close_idle()
        return await context.live.wait_until_quiet(timeout)

    async def stop(self) -> None:
        """End at once whatever still runs. Idempotent."""
        if self._context is not None:
            await self.end_all()
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()

    def reopen_log(self) -> None:
        """Reopen log files by their names: they were moved away."""
        self._log.reopen()

    def load_reported(self, server: Server, load: float) -> None:
        """A health check says how much a server has to do; some strategies want to know."""
        now = self.context.clock()
        for backend in self.backends.values():
            backend.load_reported(server, load, now)

    def marked_down(self, backend: Backend, server: Server, stands_still: bool) -> None:
        """The checks have marked `server` down: move its requests away."""
        shuts_down = backend.shuts_down_sessions
        if shuts_down or stands_still:
            leaving = leave_server(self.context, backend.pool, server, shuts_down=shuts_down)
            self._tasks.spawn(leaving, name=f"requests leave {backend.name}/{server.name}")

    def is_sending(self, server: Server, seconds: float) -> bool:
        """True if `server` has sent bytes of a response or a tunnel within `seconds`."""
        return saw_progress(self.context.live, self.context.clock(), server, seconds)

    def running_sessions(self) -> list[dict[str, Any]]:
        """A row for each request in flight, of plain values (`control.operator.Session`)."""
        return running_sessions(self.context.live, self.context.clock(), self.process.number)

    def end_sessions(self, **wanted: str | None) -> int:
        """Cut the requests whose rows have these values -> their number."""
        context = self.context
        return end_sessions(context.live, context.clock(), self.process.number, **wanted)

    def look(self) -> None:
        """Update the figures of this process."""
        self.look_inside()
        self.process.look()

    def look_inside(self) -> None:
        """The same, without the kernel's figures, which other processes can read themselves."""
        context, process = self._context, self.process
        if context is not None:  # else it is ending, and what was known is the last
            process.is_draining = context.live.is_draining
            process.clients = len(context.live.clients)
            process.access_log_dropped = context.log.access_log.dropped

    def certificates(self) -> list[CertificateView]:
        """Those that new handshakes get."""
        return [
            view
            for frontend in self.frontends
            for view in certificates.of_frontend(frontend.name, frontend.certificates)
        ]

    # Another configuration, in place.

    def set_servers(
        self,
        backend: str,
        servers: list[config.Server],
        before_serving: Callable[[], None] = lambda: None,
    ) -> None:
        """Another set of servers, by discovery or by an operator."""
        configured = self.config.backends[backend].model_copy(update={"servers": servers})
        backends = {**self.config.backends, backend: configured}
        self.config = self.config.model_copy(update={"backends": backends})
        present = self.backends[backend]
        present.reconfigure(configured, present.dialer, before_serving)

    def discover(
        self, backend: str, servers: Iterable[DiscoveredServer], gone: Iterable[str]
    ) -> Discovered | None:
        """Change the servers of a backend's discovery (`Backend.discover`); None: there is no such
        backend. `look_at_queue` of its pool is due."""
        present = self.backends.get(backend)
        return None if present is None else present.discover(servers, gone)

    def set_discovered(self, servers: Mapping[str, Mapping[str, DiscoveredServer]]) -> None:
        """All servers of discoveries, by backend and name."""
        for name, backend in self.backends.items():
            found = servers.get(name, {})
            here = [s.name for s in backend.pool.servers if s.config.is_discovered]
            backend.discover(found.values(), [one for one in here if one not in found])

    async def reconfigure(
        self,
        new: Config,
        sockets: Sockets | None = None,
        before_serving: Callable[[], None] = lambda: None,
        tls_files: Mapping[str, TlsFiles] | None = None,
    ) -> None:
        """Apply `new` without disturbing requests in flight that it does not concern.

        Everything that may fail is done first, listeners above all: OSError or ValueError is raised
        then, and nothing has changed. `new` has no change that needs a restart. If descriptors to
        accept with are lacking, clients wait in the backlog until there are some.
        `before_serving` is called when the pools are in their new state and still unused.
        `tls_files`: as in the beginning; None: the files on disk have to be valid.
        """
        dialers = {
            name: Dialer.of(name, backend, self.backends[name].dialer)
            if name in self.backends
            else Dialer.of(name, backend)
            for name, backend in new.backends.items()
        }
        if tls_files is None:
            check_certificates(new)
        await self._open_turns(new)
        log = None
        if new.log != self.config.log:
            log = self._make_log(new.log)
            await log.access_log.start()
        try:
            groups = self._sockets_for_new_binds(new, sockets or {})
        except BaseException:
            if log is not None:
                await log.access_log.close()
            raise
        self.config = new
        self._tls_files = tls_files or {}
        self.context.reconfigure(new)
        before, spans = self._log, self.context.log.recorder.spans
        if log is not None:
            self._log, self._spans = log.access_log, log.recorder.spans
            self.context.log = log
        try:
            self._set_backends(new, dialers)
            self._mark_backends_with_turns()
            before_serving()
            await self._set_frontends(new, groups)
        finally:
            if log is not None:
                await before.close()
                await _close_spans(spans)

    def _sockets_for_new_binds(
        self, new: Config, given: Sockets
    ) -> dict[tuple[str, str], Sequence[socket.socket]]:
        """For each bind that is new or has other options; raises OSError if one can't be had."""
        groups: dict[tuple[str, str], Sequence[socket.socket]] = {}
        try:
            for configured in new.frontends:
                for bind in configured.bind:
                    if not self._listens(configured.name, bind):
                        key = configured.name, str(bind)
                        groups[key] = (
                            given.get(key)
                            or self._duplicates(bind)
                            or [listening_socket(bind, configured.name)]
                        )
        except BaseException:
            for group in (*groups.values(), *given.values()):
                for sock in group:
                    sock.close()
            raise
        for key in given.keys() - groups.keys():  # it listens there already
            for sock in given[key]:
                sock.close()
        return groups

    def _listens(self, frontend: str, bind: Bind) -> bool:
        return any(
            one.name == frontend and any(listener.bind == bind for listener in one.listeners)
            for one in self.frontends
        )

    def _duplicates(self, bind: Bind) -> list[socket.socket]:
        """Of the sockets that listen there already, by other rules or for another frontend."""
        return [
            sock.dup()
            for frontend in self.frontends
            for listener in frontend.listeners
            if listener.bind.address == bind.address and not bind.is_any_port
            for sock in listener.sockets
        ]

    def _set_backends(self, new: Config, dialers: Mapping[str, Dialer]) -> None:
        for name, configured in new.backends.items():
            if name in self.backends:
                self.backends[name].reconfigure(configured, dialers[name])
            else:
                self._add_backend(name, configured)
        for name in [name for name in self.backends if name not in new.backends]:
            backend = self.backends.pop(name)
            del self.pools[name]
            backend.retire()
            self._leaving.append(backend)

    async def _set_frontends(self, new: Config, groups: Sockets) -> None:
        present = {frontend.name: frontend for frontend in self.frontends}
        wanted = [present.get(one.name) or self._frontend(one) for one in new.frontends]
        leaving = [frontend for frontend in self.frontends if frontend not in wanted]
        self.frontends = wanted + leaving  # a `stop` meanwhile stops each of them
        for frontend, configured in zip(wanted, new.frontends, strict=True):
            if frontend.name in self.counters:
                tls_files = self._tls_files.get(frontend.name)
                frontend.reconfigure(configured, self.backends, tls_files)
                await _set_binds(frontend, configured, groups)
            else:
                self.counters[frontend.name] = frontend.counters
                await frontend.start(_groups(configured, groups), may_be_late=True)
        for frontend in leaving:
            await frontend.stop()
            self.frontends.remove(frontend)
            del self.counters[frontend.name]
            self.context.live.gate.forget(frontend)
            self._close_gracefully(
                one for one in self.context.live.clients if one.peer.frontend is frontend
            )

    # The parts.

    def _add_backend(self, name: str, configured: config.Backend) -> None:
        context = self.context
        self.backends[name] = backend = Backend(
            name,
            configured,
            partial(_connections, context),
            clock=context.clock,
            rng=context.rng,
            tasks=context.tasks,
            shared_store=self.shared_store,
        )
        self.pools[name] = backend.pool
        backend.pool.on_marked_down = partial(self.marked_down, backend)

    def _frontend(self, configured: config.Frontend) -> Frontend:
        tls_files = self._tls_files.get(configured.name)
        return Frontend(configured, self.backends, self.context, self.tickets, tls_files)

    async def _stop_frontends(self) -> None:
        for frontend in list(self.frontends):
            await frontend.stop()

    def _all_backends(self) -> Iterator[Backend]:
        yield from self.backends.values()
        yield from self._leaving

    def _swept(self) -> list[Backend]:
        """All backends, for the sweep; removed ones without requests are forgotten here."""
        for backend in [one for one in self._leaving if one.is_quiet]:
            self._leaving.remove(backend)
            self._tasks.spawn(backend.session_table.close(), name="close pins")
        return list(self._all_backends())

    def _close_gracefully(self, clients: Iterable[Connection]) -> None:
        """For stopped frontends: connected clients may finish, and begin one more request."""
        self.context.batch.flush()
        now = self.context.clock()
        for client in list(clients):
            client.close_gracefully(now)

    # The end.

    def _forget(self) -> None:
        self._context = None

    async def _close_log(self) -> None:
        await self._log.close()
        await _close_spans(self._spans)

    def _mark_backends_with_turns(self) -> None:
        with_turns = self.config.backends_with_turns
        for name, backend in self.backends.items():
            backend.has_turns = name in with_turns

    async def _open_turns(self, configured: Config) -> None:
        """Once a route has turns, there is a gateway for them, which stays."""
        turns, url = self.context.turns, configured.store.url
        if turns is not None and url is not None and url != self.config.store.url:
            turns.store.renew(url)
        elif turns is None and configured.backends_with_turns:
            secret = turn_secret(configured.store)
            store = await open_turn_store(configured.store, self.on_incarnation)
            self.context.turns = TurnGateway(store, secret)

    async def _close_turns(self) -> None:
        if self.context.turns is not None:
            await self.context.turns.store.close()

    async def _close_pins(self) -> None:
        for backend in self._all_backends():
            await backend.session_table.close()

    async def end_all(self) -> None:
        """Cut what still runs, each in a way that its client can see."""
        context = self.context
        context.live.start_draining()
        context.batch.flush()
        # Queued exchanges first: leases that the others release must not go to them.
        for client in sorted(
            context.live.all_held(),
            key=lambda one: not any(each.is_queued for each in one.exchanges()),
        ):
            client.shut_down()
        for upstream in list(context.live.upstreams):
            if upstream.sink is not None:  # whose client has left
                upstream.sink.shut_down()
            upstream.abort()
        for shared in list(context.live.shared):
            shared.abort()
        await self._tasks.cancel_all()
        await context.live.wait_until_quiet(_CLOSING_TAKES)
        context.batch.flush()


async def _close_spans(spans: Spans | None) -> None:
    """In a thread: what waits is exported first."""
    if spans is not None:
        await asyncio.to_thread(spans.close)


async def _set_binds(frontend: Frontend, configured: config.Frontend, groups: Sockets) -> None:
    """Make it listen at these and no others, first at the new ones."""
    before = list(frontend.listeners)
    for bind in configured.bind:
        if all(listener.bind != bind for listener in before):
            await frontend.add(bind, groups[configured.name, str(bind)])
    for listener in before:
        if listener.bind not in configured.bind:
            await frontend.remove(listener.bind)


def _connections(
    context: Context, server: Server, *, keep: int, idle_timeout: float, dialer: Dialer
) -> ConnectionPool:
    """The connections to a server, by its backend's protocol."""
    make = SharedConnections if dialer.speaks_http2 else ServerConnections
    return make(context, server, keep=keep, idle_timeout=idle_timeout, dialer=dialer)


def _groups(
    configured: config.Frontend, sockets: Sockets | None
) -> list[Sequence[socket.socket]] | None:
    """The sockets of each bind, if they are ready-made."""
    if sockets is None:
        return None
    return [sockets[configured.name, str(bind)] for bind in configured.bind]
