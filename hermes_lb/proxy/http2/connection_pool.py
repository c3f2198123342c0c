"""Connections by HTTP/2 to one server: each carries many requests, so there is mostly one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from hermes_lb.backends.dialing import in_words
from hermes_lb.errors import EXHAUSTION, ConnectFailed, Exhausted
from hermes_lb.proxy.http1.connection_pool import ServerConnections
from hermes_lb.proxy.http2.upstream import Home, Http2Upstream
from hermes_lb.proxy.ports import ConnectionPool

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.backends.dialing import Dialer, Peers
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.http2.upstream_stream import UpstreamStream
    from hermes_lb.proxy.ports import ServerSide

    Dialed: TypeAlias = Http2Upstream | ConnectFailed | Exhausted

_PROTOCOL = "h2"


class SharedConnections(ConnectionPool, Home):
    """The oldest connection with room gets the next request, so that the others become idle.

    Another one is dialed when all are full; all requests that wait share one dial. `keep`: how many
    connections without a request are kept. A WebSocket has a connection of its own, by HTTP/1.1.
    """

    def __init__(
        self, context: Context, server: Server, *, keep: int, idle_timeout: float, dialer: Dialer
    ) -> None:
        self.server = server
        self.speaks_http2 = True
        self.sends_client_address = False
        self._context = context
        self._connections: list[Http2Upstream] = []
        self._dialer = dialer.to(server.config, _PROTOCOL)
        self._dialing: asyncio.Task[Dialed] | None = None
        self._waiting = 0  # for that dial
        self._tunnels = ServerConnections(
            context, server, keep=0, idle_timeout=idle_timeout, dialer=dialer
        )
        self.reconfigure(keep=keep, idle_timeout=idle_timeout, dialer=dialer)

    def __repr__(self) -> str:
        return f"<SharedConnections to {self.server.name}, {self._connections}>"

    def take_idle(
        self, now: float, *, fresh_only: bool, check_now: bool = True
    ) -> UpstreamStream | None:
        """A stream on a connection that has room."""
        for connection in list(self._connections):
            if connection.has_room:
                return connection.open()
        return None

    async def dial(self, peers: Peers | None, *, tunnel: bool = False) -> ServerSide:
        if tunnel:
            return await self._tunnels.dial(peers)
        while True:
            stream = self.take_idle(0.0, fresh_only=False)
            if stream is not None:
                return stream
            dialed = await self._next_connection()
            if not isinstance(dialed, Http2Upstream):
                raise type(dialed)(str(dialed))
            if dialed.is_going:
                where = f"{self.server.name} at {self.server.config.address}"
                raise ConnectFailed(f"{where}: closed at once")

    async def _next_connection(self) -> Dialed:
        if self._dialing is None:
            self._dialing = self._context.tasks.spawn(self._connect(), name="dial by HTTP/2")
        dialing = self._dialing
        self._waiting += 1
        try:
            return await asyncio.shield(dialing)
        finally:
            self._waiting -= 1
            if not self._waiting and self._dialing is dialing:
                dialing.cancel()  # all requests have left
                self._dialing = None

    async def _connect(self) -> Dialed:
        server, context, dialer = self.server, self._context, self._dialer
        began = context.clock()
        connection = Http2Upstream(self, context, dialer)
        try:
            await dialer.dial(context.loop, lambda: connection)
            # Only now: uvloop does not report its end to a protocol if the dial is cancelled.
            if not connection.is_lost:
                context.live.shared.add(connection)
            await connection.ready
            if not connection.has_room:
                raise ConnectFailed(f"{server.name}: it allows no streams of HTTP/2")
        except OSError as error:
            reason = in_words(error)
            if error.errno in EXHAUSTION:
                return Exhausted(f"no connection to {server.name}: {reason}")
            return ConnectFailed(f"{server.name} at {server.config.address}: {reason}")
        except ConnectFailed as error:
            connection.abort()
            return error
        except asyncio.CancelledError:
            connection.give_up()
            if connection in context.live.shared:
                connection.abort()
            raise
        finally:
            if self._dialing is asyncio.current_task():
                self._dialing = None
        self._connections.append(connection)
        server.counters.dial.observe(context.clock() - began)
        return connection

    def forget(self, connection: Http2Upstream) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    def has_idle(self, connection: Http2Upstream) -> None:
        idle = sum(one.is_idle for one in self._connections)
        is_old = connection.dialer is not self._dialer  # made in a way of before a reload
        if idle > self._keep or is_old or self._context.live.is_draining:
            connection.retire()

    def reconfigure(self, *, keep: int, idle_timeout: float, dialer: Dialer) -> None:
        present = dialer.to(self.server.config, _PROTOCOL)
        if present.way != self._dialer.way:
            self._dialer = present
            for connection in list(self._connections):
                connection.retire()
        self._keep = keep
        self._idle_timeout = idle_timeout
        self._tunnels.reconfigure(keep=0, idle_timeout=idle_timeout, dialer=dialer)

    def retire(self) -> None:
        self._keep = 0
        self.close_idle()

    def close_idle(self) -> None:
        for connection in [one for one in self._connections if one.is_idle]:
            connection.retire()

    def sweep(self, now: float) -> None:
        for connection in list(self._connections):
            if not connection.is_idle:
                connection.sweep(now)
            elif now - connection.idle_since >= self._idle_timeout:
                connection.retire()
            else:
                self.has_idle(connection)
