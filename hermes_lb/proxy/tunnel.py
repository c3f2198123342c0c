"""After a 101: raw bytes both ways, each direction closed on its own (half-close).

The exchange, and with it the lease, lasts until both directions have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.proxy.ports import TunnelSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Downstream, ServerSide, Traffic, TunnelEnd

# Seconds that the server has to take the last bytes of a tunnel that was cut.
_PATIENCE = 5.0


class Tunnel(TunnelSink):
    """Two ends, joined. Each calls `half_closed` and `lost`.

    `ended`: called once, with the termination, unless the tunnel is detached before.
    """

    __slots__ = ("_context", "_ended", "_is_open", "client_end", "server_end", "traffic")

    def __init__(
        self,
        client: Downstream,
        upstream: ServerSide,
        traffic: Traffic,
        context: Context,
        ended: Callable[[str], None],
    ) -> None:
        self.traffic = traffic
        self._context = context
        self._ended = ended
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
        """End both sides, once all written bytes have left."""
        if self._is_open:
            self._is_open = False
            # A server that does not read gets no longer than this.
            is_clean = termination == "--"
            patience = self._context.settings.timeouts.client if is_clean else _PATIENCE
            self.server_end.close(patience)
            self.client_end.close(patience)
            self._ended(termination)

    def detach(self) -> None:
        """The exchange is over: ignore further events of the two connections."""
        self._is_open = False
