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
