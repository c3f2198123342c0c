"""Connections to servers: reuse an idle one, or dial.

An idle connection is a guess: the server may be closing it right now. So a request that must not
be executed twice only takes one that was in use a moment ago, and dials otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.backends.dialing import in_words
from hermes_lb.errors import EXHAUSTION, ConnectFailed, Exhausted
from hermes_lb.proxy.http1.upstream import UpstreamConnection
from hermes_lb.proxy.ports import ConnectionPool

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.backends.dialing import Dialer, Peers
    from hermes_lb.proxy.context import Context

# Seconds. Uvicorn and Node close idle connections after 5 s, so within 1 s none is being closed.
FRESH = 1.0


class ServerConnections(ConnectionPool):
    """The idle connections to one server, last used last.

    `keep`: how many at most. If the dialer sends the client's address on a connection, it serves
    only this client, and none is kept.
    """

    def __init__(
        self,
        context: Context,
        server: Server,
        *,
        keep: int,
        idle_timeout: float,
        dialer: Dialer,
    ) -> None:
        self.server = server
        self.speaks_http2 = False
        self._context = context
        self._live = context.live
        self._idle: list[UpstreamConnection] = []
        self._dialer = dialer.to(server.config)
        self.reconfigure(keep=keep, idle_timeout=idle_timeout, dialer=dialer)

    def __repr__(self) -> str:
        return f"<ServerConnections to {self.server.name}, {len(self._idle)} idle>"

    @property
    def idle(self) -> int:
        """How many connections wait to be used again."""
        return len(self._idle)

    def take_idle(
        self, now: float, *, fresh_only: bool, check_now: bool = True
    ) -> UpstreamConnection | None:
        """The connection that was used last, if there is one that may be used.

        Those with unread input are skipped: the loop is about to report it. It may be an end, or
        with TLS a session ticket, after which the connection is as good as before. Without
        `check_now` those without TLS are looked at all together, just before they are written to.
        """
        idle = self._idle
        position = len(idle)
        while position:
            position -= 1
            connection = idle[position]
            if fresh_only and now - connection.idle_since > FRESH:
                return None
            if connection.transport.is_closing():
                continue
            if (check_now or connection.is_tls) and connection.has_news():
                continue
            del idle[position]
            return connection
        return None

    def put_idle(self, connection: UpstreamConnection, now: float) -> None:
        """Keep `connection` for another request; above `keep` the least recently used is closed.

        It is the freshest, which is the only kind that a request takes that must not be repeated.
        nginx evicts in the same order (ngx_http_upstream_free_keepalive_peer).
        """
        if (
            self._keep
            and connection.dialer is self._dialer  # and not made in a way of before a reload
            and not self._live.is_draining
        ):
            connection.idle_since = now
            idle = self._idle
            idle.append(connection)
            while len(idle) > self._keep:
                idle.pop(0).close()
        else:
            connection.close()

    def forget(self, connection: UpstreamConnection) -> None:
        """The server closed an idle connection, or sent unexpected bytes."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def dial(self, peers: Peers | None, *, tunnel: bool = False) -> UpstreamConnection:
        """Open a connection on behalf of the client's connection between `peers`, or of no client.

        Raises ConnectFailed or Exhausted; the caller bounds the time.
        """
        server, context, dialer = self.server, self._context, self._dialer
        began = context.clock()
        try:
            connection = await dialer.dial(
                context.loop, lambda: UpstreamConnection(self, context, dialer), peers
            )
        except OSError as error:
            reason = in_words(error)
            if error.errno in EXHAUSTION:
                raise Exhausted(f"no connection to {server.name}: {reason}") from None
            raise ConnectFailed(f"{server.name} at {server.config.address}: {reason}") from None
        if connection.is_lost:
            raise ConnectFailed(f"{server.name} at {server.config.address}: closed at once")
        # Only now: uvloop does not report its end to a protocol if the dial is cancelled.
        self._live.upstreams.add(connection)
        server.counters.dial.observe(context.clock() - began)
        return connection

    def reconfigure(self, *, keep: int, idle_timeout: float, dialer: Dialer) -> None:
        """Change dialer and limits; surplus connections are closed as they are used or time out."""
        present = dialer.to(self.server.config)
        if present.way != self._dialer.way:
            self._dialer = present
            self.close_idle()
        self.sends_client_address = dialer.sends_client_address
        self._keep = 0 if dialer.sends_client_address else keep
        self._idle_timeout = idle_timeout

    def retire(self) -> None:
        """Its server was removed from the configuration: keep no connections."""
        self._keep = 0
        self.close_idle()

    def close_idle(self, unused_since: float | None = None) -> None:
        """Close idle connections that were last used before then, or all of them."""
        if unused_since is None:
            doomed, self._idle = self._idle, []
        else:
            keep_from = 0
            while keep_from < len(self._idle) and self._idle[keep_from].idle_since < unused_since:
                keep_from += 1
            doomed, self._idle = self._idle[:keep_from], self._idle[keep_from:]
        for connection in doomed:
            connection.close()

    def sweep(self, now: float) -> None:
        """Close connections that were idle for `keep_alive_timeout`."""
        if self._idle:
            self.close_idle(now - self._idle_timeout)
