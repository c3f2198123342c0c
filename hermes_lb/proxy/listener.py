"""Who lets clients in: a frontend, and a listener for each of its binds."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

from hermes_lb.config.units import Address
from hermes_lb.pool import FrontendCounters
from hermes_lb.proxy.addresses import UNIX, plain_network, told_address
from hermes_lb.proxy.certificates import Certificates, stamps_of
from hermes_lb.proxy.client import ClientConnection
from hermes_lb.proxy.https import Redirect, hsts_field
from hermes_lb.proxy.proxied import ProxyHeaderReader
from hermes_lb.proxy.router import Router
from hermes_lb.proxy.sockets import BACKLOG, listening_socket, remove_stale
from hermes_lb.proxy.ticket_keys import until_tomorrow
from hermes_lb.proxy.tls import TlsLayer

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from hermes_lb import config
    from hermes_lb.config.units import UnixAddress
    from hermes_lb.proxy.certificates import TlsFiles
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.dispatch import Backend

# uvloop accepts one connection per listening descriptor and turn, and a turn has its price: with 8
# descriptors of one socket, a connection per request takes 60 us of CPU instead of 100.
_ACCEPTS_PER_TURN = 8

# Seconds, if there is no descriptor left to accept with (asyncio's own pause for that).
_TRY_AGAIN = 1.0

# Seconds. The clock may be set, or the machine sleep, while a timer waits for the next day.
_LOOKS_AT_CLOCK = 600.0

# Seconds that asyncio's own loop takes at most to make a connection of what it has accepted.
_SETTLES = 0.5
# And in turns, when nothing else is to be done: a task, its transport, and `connection_made`.
_TURNS_TO_SETTLE = 3

logger = logging.getLogger("hermes_lb")


class Frontend:
    """A public entrance: its addresses, its routes, and whom it believes."""

    def __init__(
        self,
        configured: config.Frontend,
        backends: Mapping[str, Backend],
        context: Context,
        tls_files: TlsFiles | None = None,
    ) -> None:
        """`tls_files`: as they were read before, whatever they are now.

        Raises OSError, whose `strerror` names the certificate, if one can't be used.
        """
        self.name = configured.name
        self.counters = FrontendCounters()
        self.listeners: list[Listener] = []  # once it has started
        self.certificates: Certificates | None = None
        self._unusable: object = None  # the stamps of files that could not be used
        self._context = context
        self._is_paused = False
        self.is_stopped = False  # for good: its connections end with the request that runs, or next
        self._watch: asyncio.TimerHandle | None = None
        self._day_watch: asyncio.TimerHandle | None = None
        self.reconfigure(configured, backends, tls_files)

    def reconfigure(
        self,
        configured: config.Frontend,
        backends: Mapping[str, Backend],
        tls_files: TlsFiles | None = None,
    ) -> None:
        """Another configuration of the same name, for requests and connections from now on.

        Its binds are for `add` and `remove`. With `tls_files` a certificate that can't be used now
        is told, and those that it has, or else those files, stay in use. Without them OSError is
        raised, and nothing is changed.
        """
        if (tls := configured.tls) is not None:
            has_settings = self.certificates is not None and self.certificates.are_of(tls)
            if self._needs_certificates(tls) if tls_files is None else not has_settings:
                self._read_certificates(tls, tls_files)
        self._configured = configured
        if tls_files is not None:
            self._try_certificates()
        self.router = Router(configured, backends)
        self.allows_trace = configured.trace
        self.redirect = Redirect.of(configured)
        self.hsts = hsts_field(configured.tls)
        self._networks = [
            plain_network(one) for one in configured.trusted_proxies if one != "unix:"
        ]
        self._trusts_unix = "unix:" in configured.trusted_proxies
        if self.listeners:
            self._watch_certificates()

    def reload_certificates(self) -> None:
        """Read them anew if their files have changed, for the handshakes to come.

        Raises OSError, and keeps those in use, if one can't be used.
        """
        tls = self._configured.tls
        if tls is not None and self._needs_certificates(tls):
            self._read_certificates(tls)

    def _needs_certificates(self, tls: config.Tls) -> bool:
        return self.certificates is None or self.certificates.are_outdated(tls)

    def _read_certificates(self, tls: config.Tls, files: TlsFiles | None = None) -> None:
        before = self.certificates
        self.certificates = new = Certificates(tls, self.name, self._context.tickets, files)
        if before is not None and before.files.stamps != new.files.stamps:
            logger.info("frontend %s has new certificates: %s", self.name, new.in_words())

    def _look_at_certificates(self) -> None:
        """What a renewal has put there is in use a minute later, without a reload."""
        self._try_certificates()
        self._watch_certificates()

    def _try_certificates(self) -> None:
        """Read them anew if their files have changed; they stay as they were if one can't be."""
        tls = self._configured.tls
        seen = tls and stamps_of(tls)
        try:
            self.reload_certificates()
        except OSError as error:  # perhaps only half of the files have been written yet
            if seen != self._unusable:  # told once, and tried again: it may not be the files
                logger.warning("the certificates stay as they were: %s", error.strerror)
            self._unusable = seen
        else:
            self._unusable = None

    def _follow_the_day(self) -> None:
        """Tickets get other keys at 0:00 UTC: in all processes at a time, and whoever starts later.

        The files are not looked at: that is for `reload_interval`, which may be "never".
        """
        wait = until_tomorrow()
        certificates = self.certificates
        if certificates is not None and certificates.are_of_another_day:
            try:
                self.certificates = certificates.of_today()
            except OSError as error:
                logger.warning("the keys of TLS tickets stay as they were: %s", error.strerror)
                wait = _LOOKS_AT_CLOCK
        self._day_watch = self._context.loop.call_later(
            min(wait, _LOOKS_AT_CLOCK), self._follow_the_day
        )

    def _watch_certificates(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        tls = self._configured.tls
        if tls is not None and self._day_watch is None:
            self._follow_the_day()
        if tls is not None and tls.reload_interval > 0.0:
            self._watch = self._context.loop.call_later(
                tls.reload_interval, self._look_at_certificates
            )

    @property
    def addresses(self) -> list[Address | UnixAddress]:
        """Where it really listens, once it does."""
        return [listener.address for listener in self.listeners]

    def trusts(self, address: str) -> bool:
        """True if what this peer, by its plain address, says of its own client counts."""
        if address == UNIX:
            return self._trusts_unix
        if not self._networks:
            return False
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def real_client(self, forwarded_for: list[bytes], peer: str) -> str:
        """Who the client is, by X-Forwarded-For: the last address that no trusted proxy has.

        nginx: `real_ip_header X-Forwarded-For` with `real_ip_recursive on`.
        """
        client = peer
        for entry in reversed(b",".join(forwarded_for).split(b",")):
            try:
                candidate = told_address(entry.decode("ascii"))
            except ValueError:
                break
            client = candidate
            if not self.trusts(candidate):
                break
        return client

    async def start(
        self, sockets: Sequence[Sequence[socket.socket]] | None = None, *, may_be_late: bool = False
    ) -> None:
        """Listen, on sockets of one's own or on ready-made ones: a group for each bind, in order.

        Clients are let in while the gate is open. Raises OSError, whose `strerror` names the
        address. `may_be_late`: for want of descriptors clients wait in the backlog, and nothing is
        raised.
        """
        opened = [
            self._open(bind, None if sockets is None else sockets[number])
            for number, bind in enumerate(self._configured.bind)
        ]
        self._watch_certificates()
        self._context.gate.guard(self)
        for listener in opened:
            await (listener.accept_when_possible() if may_be_late else listener.accept())

    async def add(self, bind: config.Bind, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen at one more address while running. Raises OSError if it can't be had.

        For want of descriptors clients wait in the backlog, and nothing is raised.
        """
        await self._open(bind, sockets).accept_when_possible()

    def _open(self, bind: config.Bind, sockets: Sequence[socket.socket] | None) -> Listener:
        number = len(self.listeners) + 1
        listener = Listener(bind, self, self._context, sockets, number)
        self.listeners.append(listener)
        if self._is_paused:
            listener.pause()
        return listener

    async def remove(self, bind: config.Bind) -> None:
        """Listen there no more; the connections that came that way go on."""
        for listener in [one for one in self.listeners if one.bind == bind]:
            self.listeners.remove(listener)
            await listener.stop()

    def pause(self) -> None:
        """Accept no more for now: clients wait in the backlog."""
        self._is_paused = True
        for listener in self.listeners:
            listener.pause()

    def resume(self) -> None:
        """Accept again."""
        self._is_paused = False
        for listener in self.listeners:
            listener.resume()

    async def stop(self) -> None:
        """Close the listening sockets for good; connections go on, those just accepted too."""
        self.is_stopped = True
        for watch in (self._watch, self._day_watch):
            if watch is not None:
                watch.cancel()
        for listener in self.listeners:
            await listener.stop()


class Listener:
    """One bind of a frontend: its sockets, and the servers of the loop that accept from them.

    It owns its sockets and closes them. A file that belongs to one is removed by who made it: by
    the listener if it opened the socket itself, never if it was given.
    """

    def __init__(
        self,
        bind: config.Bind,
        frontend: Frontend,
        context: Context,
        sockets: Sequence[socket.socket] | None = None,
        number: int = 1,
    ) -> None:
        """`number`: in the frontend. Raises OSError, whose `strerror` names the address."""
        self.bind = bind
        self.tls = bind.tls
        self.scheme = b"https" if bind.tls else b"http"
        self.number = number
        self._frontend = frontend
        self._context = context
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
        """What it listens on, for who wants to listen there too, on duplicates."""
        return self._sockets

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it, such as `https://127.0.0.1:8443`."""
        if isinstance(self.address, Address):
            return f"{self.scheme.decode()}://{self.address.as_destination()}"
        return str(self.address)

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
        """As `accept`, but what is lacking is told, and it is tried again until it is there."""
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
        """Start to let clients in, unless it is paused, or does so already.

        A pause on the way ends it, even if a `resume` follows at once, which begins anew.
        """
        if not self._is_accepting or self._servers:
            return
        servers = self._servers  # a pause leaves another list here
        for sock in self._sockets:
            for _ in range(_ACCEPTS_PER_TURN):
                # asyncio's own loop accepts `backlog` connections in one go, whatever there is
                # room for, and goes on in vain when descriptors run out.
                server = await self._context.loop.create_server(
                    self._connection, sock=sock.dup(), backlog=1, start_serving=False
                )
                servers.append(server)  # whoever pauses or stops us meanwhile closes it
                await server.start_serving()
                if not self._sockets:  # stopped
                    return
                sock.listen(BACKLOG)
                if servers is not self._servers:
                    return

    def _connection(self) -> asyncio.Protocol:
        """What a client's bytes go through, from its socket on."""
        frontend = self._frontend
        client = ClientConnection(frontend, self._context, self)
        layer: ClientConnection | TlsLayer = client
        if self.tls:
            assert frontend.certificates is not None  # or its configuration would be refused
            layer = TlsLayer(client, frontend.certificates)
        return ProxyHeaderReader(client, layer) if self.bind.proxy_protocol else layer

    async def stop(self) -> None:
        """Close the listening sockets for good; connections go on, those just accepted too."""
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
