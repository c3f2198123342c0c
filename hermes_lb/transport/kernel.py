"""State of a connection that the kernel has and the event loop does not report."""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

#: Events of an idle connection: bytes, or its end.
INPUT = select.POLLIN | select.POLLRDHUP

_READ = 64 * 1024

_LINGER_FOR_0_S = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


def has_news(transport: asyncio.Transport, events: int) -> bool:
    """True if one of these events (`select.POLLIN`, ...) is there now, or an error is.

    The transport must not be closing: its descriptor may be another's then.
    """
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), events)
    return bool(poll.poll(0))


def duplicate(transport: asyncio.Transport) -> int:
    """Another descriptor of its connection, or -1: the limit is reached, or it has gone."""
    try:
        return os.dup(transport.get_extra_info("socket").fileno())
    except OSError:
        return -1


def write_last(transport: asyncio.Transport, data: bytes) -> None:
    """Write `data` and close. If the kernel takes it, the FIN follows at once.

    The loops close a connection an iteration later. By then a client that closes with the end of
    its response has done so first, and its port is in TIME_WAIT: Linux gives it out again after a
    second, so one client can open 14,000 connections a second, half of the ephemeral ports, and no
    more. HAProxy and nginx close first, too.
    """
    if transport.is_closing():
        return
    can_bypass = transport.get_extra_info("ssl_object") is None
    if not can_bypass or transport.get_write_buffer_size():
        transport.write(data)
    else:
        descriptor = transport.get_extra_info("socket").fileno()
        try:
            sent = os.write(descriptor, data)
        except OSError:  # no room; or an error, which the transport will meet and report
            sent = 0
        if sent == len(data):
            _send_fin(descriptor)
        else:
            transport.write(data[sent:])
    transport.close()


def _send_fin(descriptor: int) -> None:
    # A socket object for a moment: uvloop's have no `shutdown`. It does not look at the family.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer has reset the connection
    finally:
        sock.detach()


def received(descriptor: int) -> Iterator[bytes]:
    """The unread bytes of a connection, up to its end or an error.

    For connections that the event loop does not read any more.
    """
    try:
        while data := os.read(descriptor, _READ):
            yield data
    except OSError:
        return


def reset_when_closed(transport: asyncio.Transport) -> None:
    """Make it end by a TCP reset, which can't be mistaken for a clean end."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        reset_socket_when_closed(sock)


def reset_socket_when_closed(sock: socket.socket) -> None:
    """The same, of a socket."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_FOR_0_S)
