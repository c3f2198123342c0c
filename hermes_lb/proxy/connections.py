"""Connections to servers: reuse an idle one, or dial.

An idle connection is a guess: the server may be closing it right now. So a request that must not
be executed twice only takes one that was in use a moment ago, and dials otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.errors import EXHAUSTION, ConnectFailed, Exhausted
from hermes_lb.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from hermes_lb.pool import Server
    from hermes_lb.proxy.context import Context

# Seconds. Uvicorn and Node close idle connections after 5 s, so within 1 s none is being closed.
FRESH = 1.0


class ServerConnections:
    """The idle connections to one server, last used last."""

    def __init__(self, server: Server, context: Context, *, keep: int, idle_timeout: float) -> None:
        self.server = server
        self._context = context
        self._keep = keep
        self._idle_timeout = idle_timeout
        self._idle: list[UpstreamConnection] = []

    def __repr__(self) -> str:
        return f"<ServerConnections to {self.server.name}, {len(self._idle)} idle>"

    @property
    def idle(self) -> int:
        """How many connections wait to be used again."""
        return len(self._idle)

    def take_idle(self, now: float, *, fresh_only: bool) -> UpstreamConnection | None:
        """The connection that was used last, if there is one that may be used."""
        idle = self._idle
        while idle and not (fresh_only and now - idle[-1].idle_since > FRESH):
            connection = idle.pop()
            if not (connection.transport.is_closing() or connection.has_news()):
                return connection
        return None

    def put_idle(self, connection: UpstreamConnection, now: float) -> None:
        """Keep `connection` for another request, or close it if there are enough."""
        if len(self._idle) < self._keep and not self._context.is_draining:
            connection.idle_since = now
            self._idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: UpstreamConnection) -> None:
        """The server closed an idle connection, or sent bytes nobody had asked for."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def dial(self) -> UpstreamConnection:
        """A new connection. Raises ConnectFailed or Exhausted; the caller bounds the time."""
        host, port = self.server.config.address
        context = self._context
        try:
            _, connection = await context.loop.create_connection(
                lambda: UpstreamConnection(self, context), host, port
            )
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in EXHAUSTION:
                raise Exhausted(f"no connection to {self.server.name}: {reason}") from None
            raise ConnectFailed(f"{self.server.name} at {host}:{port}: {reason}") from None
        if connection.is_lost:
            raise ConnectFailed(f"{self.server.name} at {host}:{port}: closed at once")
        # Only now: uvloop tells a protocol nothing of its end if the dial is cancelled.
        context.upstreams.add(connection)
        return connection

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
        """Close what nobody has used for `keep_alive_timeout`."""
        if self._idle:
            self.close_idle(now - self._idle_timeout)
