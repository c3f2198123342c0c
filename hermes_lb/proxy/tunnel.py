"""After a 101: raw bytes both ways, each direction closed on its own (half-close).

The exchange, and with it the lease, lasts until both directions have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.ports import Downstream, ServerSide, TunnelEnd

# Seconds that the server has to take the last bytes of a tunnel that was cut.
_PATIENCE = 5.0


class Tunnel:
    """Two ends, joined. Each calls `half_closed` and `lost`."""

    __slots__ = ("_is_open", "client_end", "exchange", "server_end")

    def __init__(self, exchange: Exchange, client: Downstream, upstream: ServerSide) -> None:
        self.exchange = exchange
        self._is_open = True
        self.client_end: TunnelEnd = client.open_tunnel(self)
        self.server_end: TunnelEnd = upstream.open_tunnel(self)

    def start(self, *, from_server: bytes) -> None:
        """Pass bytes; `from_server` followed the server's 101."""
        self.client_end.start(self.server_end, b"")
        self.server_end.start(self.client_end, from_server)

    def half_closed(self, end: TunnelEnd, other: TunnelEnd) -> bool:
        """The peer of `end` sends no more. False: so both directions have ended.

        asyncio has no half-close for TLS: both directions end, as in nginx.
        """
        if not (end.can_half_close() and other.can_half_close()):
            self.close("--")
            return False
        other.write_eof()
        if other.has_ended:
            self.close("--")
        return True

    def lost(self, end: TunnelEnd, error: Exception | None) -> None:
        """The connection of `end` has gone."""
        is_clean = end.has_ended and error is None
        self.close("--" if is_clean else "CD" if end is self.client_end else "SD")

    def close(self, termination: str) -> None:
        """End both sides, once all written bytes have left, and the exchange with them."""
        if self._is_open:
            exchange, context = self.exchange, self.exchange.context
            exchange.upstream = None
            # A server that does not read gets no longer than this.
            patience = context.settings.timeouts.client if termination == "--" else _PATIENCE
            self.server_end.close(patience)
            exchange.finish(termination, context.clock())
            self.client_end.close(patience)

    def detach(self) -> None:
        """The exchange is over: ignore further events of the two connections."""
        self._is_open = False
