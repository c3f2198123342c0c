"""Accepts clients: the sockets of one bind, and the loop's servers that accept from them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from hermes_lb.listen.passed_on import PassedOn
from hermes_lb.listen.proxied import ProxyHeaderReader
from hermes_lb.listen.sockets import BACKLOG, listening_socket, remove_stale
from hermes_lb.options.units import Address
from hermes_lb.proxy.http1.client import ClientConnection
from hermes_lb.proxy.ports import Peer
from hermes_lb.tls.handshake import TlsLayer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from hermes_lb import config
    from hermes_lb.options.units import UnixAddress
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Entrance
    from hermes_lb.tls.certificates import Certificates

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


class Listener:
    """One bind of a frontend: its sockets, and the servers of the loop that accept from them.

    It owns its sockets and closes them. The file of a Unix socket is removed only if the listener
    opened the socket itself, never if the socket was given.
    """

    def __init__(
        self,
        bind: config.Bind,
        frontend: Entrance,
        context: Context,
        certificates: Callable[[], Certificates | None],
        sockets: Sequence[socket.socket] | None = None,
        number: int = 1,
    ) -> None:
        """`certificates`: those in use, for `tls`; `number`: in the frontend.

        Raises OSError, whose `strerror` names the address.
        """
        self.bind = bind
        self.tls = bind.tls
        self.scheme = b"https" if bind.tls else b"http"
        self.number = number
        self._frontend = frontend
        self._context = context
        self._certificates = certificates
        self._is_given = sockets is not None
        self._sockets = (
            [listening_socket(bind, frontend.name)] if sockets is None else list(sockets)
        )
        self.address = _where_it_listens(bind, self._sockets[0])
        self._servers: list[asyncio.Server] = []
        self._retired: set[asyncio.Server] = set()
        self._is_accepting = True

    def __repr__(self) -> str:
        return f"<Listener {self.url}>"

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening sockets, for other listeners on duplicates of them."""
        return self._sockets

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it, such as `https://127.0.0.1:8443`."""
        if isinstance(self.address, Address):
            return f"{self.scheme.decode()}://{self.address.as_destination()}"
        return str(self.address)

    def pause(self) -> None:
        """Stop accepting for now: clients wait in the backlog."""
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
            self._accept_soon(0.0)

    def _accept_soon(self, wait: float) -> None:
        name = f"accept for {self._frontend.name}"
        self._context.tasks.spawn(self._accept_again(wait), name=name)

    async def _accept_again(self, wait: float) -> None:
        await asyncio.sleep(wait)
        while self._is_accepting and not self._servers:
            if not await self._has_accepted():
                await asyncio.sleep(_TRY_AGAIN)

    async def accept_when_possible(self) -> None:
        """As `accept`, but a lack of descriptors is logged, and it is retried until it succeeds."""
        if not await self._has_accepted():
            self._accept_soon(_TRY_AGAIN)

    async def _has_accepted(self) -> bool:
        try:
            await self.accept()
        except OSError as error:  # no descriptors: a listener must not be lost for that
            logger.warning("frontend %s can't accept: %s", self._frontend.name, error.strerror)
            for server in self._servers:
                server.close()
            self._servers.clear()
            return False
        return True

    async def accept(self) -> None:
        """Start to accept clients, unless it is paused, or does so already.

        A pause meanwhile ends it, even if a `resume` follows at once, which starts again.
        """
        if not self._is_accepting or self._servers:
            return
        servers = self._servers  # a pause leaves another list here
        for sock in self._sockets:
            for _ in range(_ACCEPTS_PER_TURN):
                # asyncio's own loop accepts `backlog` connections in a row, whatever the limit,
                # and keeps trying when descriptors run out.
                server = await self._context.loop.create_server(
                    self._connection, sock=sock.dup(), backlog=1, start_serving=False
                )
                servers.append(server)  # a pause or stop meanwhile closes it
                await server.start_serving()
                if not self._sockets:  # stopped
                    return
                sock.listen(BACKLOG)
                if servers is not self._servers:
                    return

    def _connection(self) -> Any:
        """The protocol of a socket that was accepted here."""
        send = self._context.live.gate.taker(self)
        return self._serving() if send is None else PassedOn(send, self._serving)

    async def adopt(self, sock: socket.socket) -> None:
        """Serve a client that another process has accepted at the same address."""
        try:
            await self._context.loop.connect_accepted_socket(self._serving, sock)
        except OSError:
            sock.close()

    def _serving(self) -> Any:
        """The protocol of a client's socket: TLS, a PROXY header or HTTP.

        Not all of them are subclasses of `asyncio.Protocol` (`hermes_lb.transport.endpoint`).
        """
        frontend = self._frontend
        client = ClientConnection(
            Peer(frontend, self.scheme),
            self._context,
            bind_number=self.number,
            is_proxied=self.bind.proxy_protocol,
        )
        layer: ClientConnection | TlsLayer = client
        if self.tls:
            certificates = self._certificates()
            assert certificates is not None  # or its configuration would be refused
            layer = TlsLayer(client, certificates, self._context.run_queue)
        return ProxyHeaderReader(client, layer) if self.bind.proxy_protocol else layer

    async def stop(self) -> None:
        """Close the listening sockets for good; connections are kept, those just accepted too."""
        self.pause()
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            sock.close()
        if sockets:
            for _ in range(_TURNS_TO_SETTLE):
                await asyncio.sleep(0)
        for server in list(self._retired):
            self._close(server)
        if sockets and not self._is_given:
            remove_stale(self.address)


def _where_it_listens(bind: config.Bind, sock: socket.socket) -> Address | UnixAddress:
    if isinstance(bind.address, Address):
        return Address(bind.address.host, sock.getsockname()[1])
    return bind.address
