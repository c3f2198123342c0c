"""Does a server still send? Asked of the kernel when a check has timed out: no work on the way."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from hermes_lb.proxy.detached import Detached

if TYPE_CHECKING:
    from hermes_lb.pool import Server
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.upstream import UpstreamConnection

# `tcpi_last_data_recv` of `struct tcp_info` (linux/tcp.h), in milliseconds.
_LAST_DATA = slice(52, 56)


def has_moved(context: Context, server: Server, seconds: float) -> bool:
    """True if a response that `server` is in the middle of, or a tunnel to it, has brought bytes
    within so many seconds. It costs up to a microsecond for each of them."""
    return any(
        upstream.home.server is server and _is_under_way(upstream) and _silence(upstream) <= seconds
        for upstream in context.upstreams
    )


def _is_under_way(upstream: UpstreamConnection) -> bool:
    """Its response has begun, and has not ended."""
    exchange = upstream.exchange
    if exchange is None or upstream.transport.is_closing():
        return False
    if upstream.body is not None:
        return True
    return not isinstance(exchange, Detached) and exchange.tunnel is not None


def _silence(upstream: UpstreamConnection) -> float:
    """Seconds since the kernel has received something of it."""
    sock = upstream.transport.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.stop)
    return int.from_bytes(info[_LAST_DATA], sys.byteorder) / 1000.0
