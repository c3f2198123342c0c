"""Does a server still send? Found out when a check has timed out: no work on the way.

Of TCP the kernel knows when the last bytes came. Of a Unix socket it does not, so what an exchange
counts anyway is compared with what it was at the last look: it has stood still since the look that
first saw it as it is. At the first look it counts as moving.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from hermes_lb.proxy.abandoned import Detached

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.http1.upstream import UpstreamConnection

# `tcpi_last_data_recv` of `struct tcp_info` (linux/tcp.h), in milliseconds.
_LAST_DATA = slice(52, 56)


def has_moved(context: Context, server: Server, seconds: float) -> bool:
    """True if a response that `server` is in the middle of, or a tunnel to it, has brought bytes
    within so many seconds. It costs up to a microsecond for each of them."""
    now = context.clock()
    return any(
        upstream.home.server is server
        and (exchange := _under_way(upstream)) is not None
        and _silence(upstream, exchange, now) <= seconds
        for upstream in context.upstreams
    )


def _under_way(upstream: UpstreamConnection) -> Exchange | Detached | None:
    """What it serves, if the response has begun, and has not ended."""
    exchange = upstream.exchange
    if exchange is None or upstream.transport.is_closing():
        return None
    if upstream.body is None and (isinstance(exchange, Detached) or exchange.tunnel is None):
        return None
    return exchange


def _silence(upstream: UpstreamConnection, exchange: Exchange | Detached, now: float) -> float:
    """Seconds since something has come of it."""
    sock = upstream.transport.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.stop)
        return int.from_bytes(info[_LAST_DATA], sys.byteorder) / 1000.0
    progress = _progress(exchange)
    if upstream.seen is None or upstream.seen[0] != progress:
        upstream.seen = progress, now
    return now - upstream.seen[1]


def _progress(exchange: Exchange | Detached) -> tuple[float, int]:
    """When it began, since a connection serves one after the other, and what has come of it."""
    if isinstance(exchange, Detached):
        return exchange.left_at, exchange.progress
    said = 0 if exchange.stream is None else exchange.stream.said
    return exchange.head_at, exchange.bytes_out - said
