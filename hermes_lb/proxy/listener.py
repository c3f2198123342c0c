"""Listening sockets, and what belongs to one frontend."""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from hermes_lb.config.units import Address
from hermes_lb.pool import FrontendCounters
from hermes_lb.proxy.client import ClientConnection
from hermes_lb.proxy.router import Router

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb import config
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.dispatch import Backend

# asyncio's default of 100 makes a burst of 300 clients wait for the retries of their SYNs.
_BACKLOG = 4096

# uvloop accepts one connection per listening descriptor and turn, and a turn has its price: with 8
# descriptors of one socket, a connection per request takes 60 us of CPU instead of 100.
_ACCEPTS_PER_TURN = 8

# Seconds, if there is no descriptor left to accept with (asyncio's own pause for that).
_TRY_AGAIN = 1.0

# Seconds that asyncio's own loop takes at most to make a connection of what it has accepted.
_SETTLES = 0.5
# And in turns, when nothing else is to be done: a task, its transport, and `connection_made`.
_TURNS_TO_SETTLE = 3

logger = logging.getLogger("hermes_lb")


class Frontend:
    """A public listener: its addresses, its routes, and whom it believes."""

    def __init__(
        self, configured: config.Frontend, backends: Mapping[str, Backend], context: Context
    ) -> None:
        self.name = configured.name
        self.router = Router(configured, backends)
        self.counters = FrontendCounters()
        self.addresses: list[Address] = []  # where it really listens, once it does
        self.allows_trace = configured.trace
        self._bind = configured.bind
        self._trusted = configured.trusted_proxies
        self._context = context
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._retired: set[asyncio.Server] = set()
        self._is_accepting = False

    def trusts(self, address: str) -> bool:
        """True if what this peer says of its own client counts."""
        if not self._trusted:
            return False
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)

    def real_client(self, forwarded_for: list[bytes], peer: str) -> str:
        """Who the client is, by X-Forwarded-For: the last address that no trusted proxy has.

        nginx: `real_ip_header X-Forwarded-For` with `real_ip_recursive on`.
        """
        client = peer
        for entry in reversed(b",".join(forwarded_for).split(b",")):
            try:
                candidate = str(ip_address(entry.strip().decode("ascii")))
            except ValueError:
                break
            client = candidate
            if not self.trusts(candidate):
                break
        return client

    async def start(self) -> None:
        """Open all sockets. Raises OSError, whose `strerror` names the address."""
        for address in self._bind:
            sock = _listening_socket(address, self.name)
            self._sockets.append(sock)
            self.addresses.append(Address(address.host, sock.getsockname()[1]))
        self._context.gate.frontends.append(self)
        self._is_accepting = True
        await self._accept()

    def pause(self) -> None:
        """Accept no more for now: clients wait in the backlog."""
        self._is_accepting = False
        servers, self._servers = self._servers, []
        for server in servers:
            if isinstance(server, asyncio.Server):
                self._retire(server)
            else:
                server.close()

    def _retire(self, server: asyncio.Server) -> None:
        """Close a server of asyncio's own loop when what it has accepted has become connections.

        It would lose those, with an error (CPython 3.13, `Server._attach`).
        """
        loop = self._context.loop
        for sock in server.sockets:
            loop.remove_reader(sock)
        self._retired.add(server)
        loop.call_later(_SETTLES, self._close, server)

    def _close(self, server: asyncio.Server) -> None:
        self._retired.discard(server)
        server.close()

    def resume(self) -> None:
        """Accept again."""
        if self._sockets:
            self._is_accepting = True
            self._context.tasks.spawn(self._accept_again(), name=f"accept for {self.name}")

    async def _accept_again(self) -> None:
        while self._is_accepting and not self._servers:
            try:
                await self._accept()
            except OSError as error:  # no descriptors: a listener must not be lost for that
                logger.warning("frontend %s can't accept: %s", self.name, error.strerror)
                for server in self._servers:
                    server.close()
                self._servers.clear()
                await asyncio.sleep(_TRY_AGAIN)

    async def _accept(self) -> None:
        for sock in self._sockets:
            for _ in range(_ACCEPTS_PER_TURN):
                # asyncio's own loop accepts `backlog` connections in one go, whatever there is
                # room for, and goes on in vain when descriptors run out.
                server = await self._context.loop.create_server(
                    lambda: ClientConnection(self, self._context),
                    sock=sock.dup(),
                    backlog=1,
                    start_serving=False,
                )
                self._servers.append(server)  # whoever pauses or stops us meanwhile closes it
                await server.start_serving()
                if not self._sockets:  # stopped
                    return
                sock.listen(_BACKLOG)
                if not self._is_accepting:
                    return

    async def stop(self) -> None:
        """Close the listening sockets for good; connections go on, those just accepted too."""
        self.pause()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        if self._retired:
            for _ in range(_TURNS_TO_SETTLE):
                await asyncio.sleep(0)
        for server in list(self._retired):
            self._close(server)


def _listening_socket(address: Address, frontend: str) -> socket.socket:
    refused = f"can't listen on {address} (frontend {frontend})"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(error.errno, f"{refused}: {error.strerror}") from None
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]:80" and "0.0.0.0:80" are two listeners, as in nginx (`ipv6only=on`).
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{refused}: {error.strerror}") from None
    return sock
