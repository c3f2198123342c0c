"""A connection to a server, up to where HTTP begins."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, TypeVar

import aiohappyeyeballs

from hermes_lb.backends.dialing.host_name import HostName
from hermes_lb.backends.dialing.proxy_header import BUILDERS, Peers
from hermes_lb.backends.dialing.tls import Resuming, client_context, file_stamps, tls_in_words
from hermes_lb.options.units import Address, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from hermes_lb.backends import options

P = TypeVar("P")  # an `asyncio.Protocol`, by its methods

# Seconds that the first address of a host name has for itself (RFC 8305 section 8).
_HAPPY_EYEBALLS_DELAY = 0.25
# Seconds that a server may take to answer our close_notify; we need no answer (RFC 8446 section
# 6.1), and no connection may stay open for the 30 s that asyncio would wait.
_TLS_SHUTDOWN = 1.0


#: What is spoken where a backend says nothing else; by ALPN, with TLS.
HTTP1 = "http/1.1"


class Dialer:
    """How the servers of one backend are reached. `key`: the place of its `tls`, for errors.

    `protocol`: what its requests are sent by.
    """

    def __init__(
        self, tls: options.ServerTls | None, proxy_protocol: str | None, protocol: str, *, key: str
    ) -> None:
        self.protocol = protocol
        self._tls = tls
        self._made_of = (tls, proxy_protocol, protocol, file_stamps(tls))
        self._contexts: dict[str, ssl.SSLContext] = {}
        if tls is not None:  # WebSockets are HTTP/1.1's everywhere
            self._contexts = {one: client_context(tls, key, one) for one in {HTTP1, protocol}}
        self._header: Callable[[Peers | None], bytes] | None = (
            BUILDERS[proxy_protocol] if proxy_protocol is not None else None
        )

    @classmethod
    def of(cls, name: str, configured: options.Backend, before: Dialer | None = None) -> Dialer:
        """The one for the backend of this name.

        That is `before` if neither its keys nor its files have changed: the authorities of a system
        take 50 ms to read. Raises ConfigError if a file that TLS needs can't be had or is no good.
        """
        tls = configured.tls
        made_of = (tls, configured.proxy_protocol, configured.protocol)
        if before is not None and before._made_of == (*made_of, file_stamps(tls)):
            return before
        return cls(*made_of, key=f"backends.{name}.tls")

    @property
    def sends_client_address(self) -> bool:
        """True if a connection begins with its client's address, and so serves only this client."""
        return self._header is not None

    @property
    def speaks_http2(self) -> bool:
        return self.protocol != HTTP1

    def to(self, server: options.Server, protocol: str = HTTP1) -> ServerDialer:
        """The dialer for one of the servers. `protocol`: that of the backend, or HTTP/1.1."""
        tls = Resuming(self._contexts[protocol]) if self._contexts else None
        name = server.server_name or (self._tls.server_name if self._tls is not None else None)
        made_of = (protocol, self._made_of)
        return ServerDialer(server.address, tls, name, self._header, made_of, protocol != HTTP1)


class ServerDialer:
    """How one server is reached.

    `host`: it and its port as a Host field has them; of a Unix socket "localhost", as in nginx.
    `scheme`: of its URLs.
    Two whose `way` is equal make the same connections.
    """

    def __init__(
        self,
        address: Address | UnixAddress,
        tls: Resuming | None,
        server_name: str | None,
        header: Callable[[Peers | None], bytes] | None,
        made_of: object,
        speaks_http2: bool,
    ) -> None:
        self.speaks_http2 = speaks_http2
        self.way = (address, server_name, made_of)
        self.scheme = b"http" if tls is None else b"https"
        self._address = address
        self._tls = tls
        self._header = header
        if isinstance(address, UnixAddress):
            self.host = server_name or "localhost"
        else:
            server_name = server_name or address.host.partition("%")[0].rstrip(".")
            self.host = str(Address(server_name, address.port))
        self._is_literal = isinstance(address, UnixAddress) or address.is_literal
        self._name = None if self._is_literal else HostName(*address)
        self._tls_options: dict[str, Any] = {}
        if tls is not None:
            self._tls_options = {
                "ssl": tls.as_context,
                # An empty one stands for none, which asyncio refuses for Unix sockets.
                "server_hostname": server_name or "",
                "ssl_shutdown_timeout": _TLS_SHUTDOWN,
            }

    async def dial(
        self, loop: asyncio.AbstractEventLoop, factory: Callable[[], P], peers: Peers | None = None
    ) -> P:
        """A new connection, whose protocol `factory` makes -> the protocol, connected.

        `peers`: whose connection it is, for a PROXY header; None: our own. Raises OSError, which
        `in_words` explains; the caller bounds the time.
        """
        address, options = self._address, self._tls_options
        make: Callable[[], Any] = factory
        protocol: P
        if self._header is None and self._is_literal and not isinstance(address, UnixAddress):
            _, protocol = await loop.create_connection(make, *address, **options)
            return protocol
        sock = await self._connect(loop)
        try:
            if self._header is not None:
                await loop.sock_sendall(sock, self._header(peers))
            if isinstance(address, UnixAddress):
                _, protocol = await loop.create_unix_connection(make, sock=sock, **options)
            else:
                _, protocol = await loop.create_connection(make, sock=sock, **options)
        except BaseException:
            sock.close()
            raise
        return protocol

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """A connected socket; of several addresses, the one that answers first (RFC 8305)."""
        address = self._address
        if isinstance(address, UnixAddress):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                # At once, or not: EAGAIN is a full backlog, which asyncio takes for "not yet".
                sock.connect(address.path)
            except BaseException:
                sock.close()
                raise
            return sock
        if self._name is not None:
            found: Sequence[aiohappyeyeballs.AddrInfoType] = await self._name.look_up()
        elif "%" in address.host:
            return await _connect_in_zone(loop, address)
        else:
            found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
        return await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, interleave=1, loop=loop
        )

    def remember(self, tls: ssl.SSLObject) -> None:
        """A connection has come so far that it has a session, which the next ones resume."""
        if self._tls is not None:
            self._tls.session = tls.session


async def _connect_in_zone(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    """A socket connected to an IPv6 address with its zone, which uvloop's `sock_connect` drops."""
    (*_, where), *_ = socket.getaddrinfo(*address, flags=socket.AI_NUMERICHOST)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        problem = sock.connect_ex(where)
        if problem == errno.EINPROGRESS:
            done = asyncio.Event()
            loop.add_writer(sock.fileno(), done.set)
            try:
                await done.wait()
            finally:
                loop.remove_writer(sock.fileno())
            problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if problem:
            raise OSError(problem, os.strerror(problem))
    except BaseException:
        sock.close()
        raise
    return sock


def in_words(error: OSError) -> str:
    """Why a server can't be reached, for a person: "Connection refused", ..."""
    if isinstance(error, ssl.SSLError):
        return tls_in_words(error)
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if error.errno is not None:
        return os.strerror(error.errno)  # its own text may have a tuple in it
    # What asyncio and uvloop raise bare, when the peer leaves within the handshake.
    return str(error) or "closed within the TLS handshake"
