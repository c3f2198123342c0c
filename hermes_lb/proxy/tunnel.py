"""After a 101: raw bytes both ways, each direction closed on its own (half-close).

Both transports get a new protocol, so a frame costs one callback and one write, and the HTTP
protocols need no branch for it. The exchange, and with it the lease, lasts until both have ended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.transport.run_queue import LARGE_READ

if TYPE_CHECKING:
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http1.upstream import UpstreamConnection
    from hermes_lb.proxy.relay import Relay

# Seconds that a side has to take the last bytes when the other one has gone.
_PATIENCE = 5.0


class Tunnel:
    """Two connections, joined."""

    def __init__(
        self, exchange: Relay, client: ClientConnection, upstream: UpstreamConnection
    ) -> None:
        self.exchange = exchange
        self.client = client
        self.upstream = upstream
        self.client_end = _End(self, client, upstream.transport, letter="C")
        self.server_end = _End(self, upstream, client.transport, letter="S")
        self._is_open = True
        self._patience: asyncio.TimerHandle | None = None  # for the last bytes to the server

    def open(self, *, from_client: bytes, from_server: bytes) -> None:
        """Join them; the bytes are what each had already sent behind its head."""
        self.client.transport.set_protocol(self.client_end)
        self.upstream.transport.set_protocol(self.server_end)
        self.client.resume_reading()
        self.upstream.resume_reading()
        if self.client.is_writing_paused:
            self.upstream.pause_reading()
        if from_client:
            self.client_end.data_received(from_client)
        if from_server:
            self.server_end.data_received(from_server)

    def half_closed(self) -> None:
        """One direction has ended; when both have, so has the tunnel."""
        if self.client_end.has_ended and self.server_end.has_ended:
            self.close("--")

    def close(self, termination: str) -> None:
        """End both sides, once what was written has left, and the exchange with them."""
        if self._is_open:
            exchange, client = self.exchange, self.client
            context, server_side = exchange.context, self.upstream.transport
            self.upstream.exchange = exchange.upstream = None
            context.turn.close(server_side)
            # It closes when all has left; a server that does not read gets no longer than this.
            patience = context.timeouts.client if termination == "--" else _PATIENCE
            self._patience = context.loop.call_later(patience, server_side.abort)
            exchange.finish(termination, context.clock())
            client.exchange = None
            client.close()

    def server_gone(self, error: Exception | None) -> None:
        """The server's transport has closed: nothing is waited for any more."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self.upstream.connection_lost(error)

    def detach(self) -> None:
        """The exchange is over: what happens to the two connections concerns it no more."""
        self._is_open = False


class _End(asyncio.Protocol):
    """One side's bytes go to the other side."""

    def __init__(
        self,
        tunnel: Tunnel,
        side: ClientConnection | UpstreamConnection,
        other: asyncio.Transport,
        *,
        letter: str,
    ) -> None:
        self._tunnel = tunnel
        self._side = side
        self._mine = side.transport
        self._other = other
        self._letter = letter
        self.has_ended = False

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        tunnel.exchange.saw_traffic = True
        if self._letter == "S":
            tunnel.exchange.bytes_out += len(data)
        else:
            tunnel.exchange.bytes_in += len(data)
        context = tunnel.exchange.context
        context.turn.relay(self._other, data)
        if len(data) >= LARGE_READ:
            context.run_queue.put_off(self._side)

    def eof_received(self) -> bool:
        self.has_ended = True
        self._tunnel.exchange.context.turn.write_all()
        if not (self._mine.can_write_eof() and self._other.can_write_eof()):
            # TLS has no half-close in asyncio: both ways end, as in nginx.
            self._tunnel.close("--")
            return False
        if not self._other.is_closing():
            self._other.write_eof()
        self._tunnel.half_closed()
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        if self is self._tunnel.client_end:
            self._tunnel.client.is_writing_paused = True
            self._tunnel.upstream.pause_reading()
        else:
            self._tunnel.client.pause_reading()

    def resume_writing(self) -> None:
        if self is self._tunnel.client_end:
            self._tunnel.client.is_writing_paused = False
            self._tunnel.upstream.resume_reading()
        else:
            self._tunnel.client.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        tunnel = self._tunnel
        tunnel.close("--" if self.has_ended and error is None else self._letter + "D")
        if self is tunnel.client_end:
            tunnel.client.forget()
        else:
            tunnel.server_gone(error)
        del self._tunnel  # each refers to the other
