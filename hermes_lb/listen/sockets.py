"""Listening sockets, in the network and in the file system."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from hermes_lb.options.units import Address, UnixAddress

if TYPE_CHECKING:
    from hermes_lb.config import Bind

# asyncio's default of 100 makes a burst of 300 clients wait for the retries of their SYNs.
BACKLOG = 4096

# As in nginx: every process that may enter the directory may connect.
_UNIX_MODE = 0o666


def listening_socket(bind: Bind, frontend: str, *, reuse_port: bool = False) -> socket.socket:
    """Listen at `bind`, on a non-blocking socket.

    `reuse_port`: others may listen there too, each on a socket of its own (SO_REUSEPORT); port 0
    is then bound once, and the others get its number. A stale Unix socket is removed first; one
    with a listener is not.

    Raises OSError, whose `strerror` names the address and the frontend.
    """
    refused = f"can't listen on {bind} (frontend {frontend})"
    try:
        if isinstance(bind.address, UnixAddress):
            return _listen_in_file_system(bind.address, bind.mode)
        return _listen_in_network(bind.address, reuse_port)
    except OSError as error:
        raise OSError(error.errno, f"{refused}: {error.strerror}") from None


def handed_over(descriptor: int) -> socket.socket:
    """The socket that `descriptor` is; neither it nor its duplicates block.

    Python takes a socket that it has not made for one that blocks, and `dup` would see to it that
    it does: for all processes that have it. One that is about to accept would hang in the kernel.
    """
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def remove_stale(address: Address | UnixAddress) -> None:
    """Remove the file of a Unix socket without a listener; one with a listener stays."""
    if isinstance(address, UnixAddress):
        with suppress(OSError):
            _remove_stale(address.path)


def _listen_in_network(address: Address, reuse_port: bool) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "[::]:80" and "0.0.0.0:80" are two listeners, as in nginx (`ipv6only=on`).
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_in_file_system(address: UnixAddress, mode: str | None) -> socket.socket:
    _remove_stale(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(address.path)
        os.chmod(address.path, _UNIX_MODE if mode is None else int(mode, 8))
        sock.listen(BACKLOG)  # only now: no client gets in before the permissions are set
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that was killed. Raises OSError if it is in use."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(path)
    if refused == errno.ECONNREFUSED:
        os.unlink(path)
    elif refused == errno.EACCES:
        raise OSError(refused, os.strerror(refused))
    elif refused != errno.ENOENT:  # it took the connection, or its backlog is full
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
