"""A public entrance: its addresses, routes, certificates and trusted proxies."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hermes_lb.backends import FrontendCounters
from hermes_lb.http.https import Redirect, hsts_field
from hermes_lb.http.version import NAMES
from hermes_lb.limits.networks import Networks
from hermes_lb.listen.listener import Listener
from hermes_lb.listen.router import Router
from hermes_lb.proxy.http2.connection import Http2Connection
from hermes_lb.proxy.policies import Policies
from hermes_lb.proxy.ports import Entrance
from hermes_lb.tls.certificates import PROTOCOLS, WITH_HTTP2, Certificates, stamps_of
from hermes_lb.tls.ticket_keys import until_tomorrow
from hermes_lb.transport.addresses import forwarded_address

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Mapping, Sequence

    from hermes_lb import config
    from hermes_lb.options.units import Address, UnixAddress
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.select import Backend
    from hermes_lb.tls.certificates import TlsFiles
    from hermes_lb.tls.ticket_keys import TicketSecret

# Seconds. The clock may be set, or the machine sleep, while a timer waits for the next day.
_LOOKS_AT_CLOCK = 600.0

logger = logging.getLogger("hermes_lb")


class Frontend(Entrance):
    """A public entrance: its addresses, routes and trusted proxies."""

    def __init__(
        self,
        configured: config.Frontend,
        backends: Mapping[str, Backend],
        context: Context,
        tickets: TicketSecret,
        tls_files: TlsFiles | None = None,
    ) -> None:
        """`tls_files`: as they were read before, whatever they are now.

        Raises OSError, whose `strerror` names the certificate, if one can't be used.
        """
        self.name = configured.name
        self.counters = FrontendCounters()
        # In Via. Frontends differ in it: one may be a server of another's.
        self.pseudonym = pseudonym = context.identity.pseudonym(configured.name)
        self.via = tuple(version.encode() + b" " + pseudonym for version in NAMES)
        self.listeners: list[Listener] = []  # once it has started
        self.certificates: Certificates | None = None
        self._unusable: object = None  # the stamps of files that could not be used
        self._context = context
        self._tickets = tickets
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
        """Apply a configuration of the same name to new requests and connections.

        Its binds are for `add` and `remove`. With `tls_files` a certificate that can't be used is
        logged, and the present ones, or else those files, stay in use. Without them OSError is
        raised, and nothing changes.
        """
        self._protocols = WITH_HTTP2 if configured.speaks_http2 else PROTOCOLS
        if (tls := configured.tls) is not None:
            has_settings = self.certificates is not None and self.certificates.are_of(tls)
            if self._needs_certificates(tls) if tls_files is None else not has_settings:
                self._read_certificates(tls, tls_files)
        self._configured = configured
        if tls_files is not None:
            self._try_certificates()
        self.make_http2 = Http2Connection if configured.speaks_http2 else None
        self.router = Router(configured, backends, Policies(self._context, configured.name))
        self.allows_trace = configured.trace
        self.redirect = Redirect.of(configured.redirect_to_https, configured.https_port)
        self.hsts = b""
        if tls is not None:
            self.hsts = hsts_field(
                tls.hsts, subdomains=tls.hsts_subdomains, preload=tls.hsts_preload
            )
        self._trusted = Networks(configured.trusted_proxies)
        if self.listeners:
            self._watch_certificates()

    def reload_certificates(self) -> None:
        """Reload them if their files have changed, for new handshakes.

        Raises OSError, and keeps those in use, if one can't be used.
        """
        tls = self._configured.tls
        if tls is not None and self._needs_certificates(tls):
            self._read_certificates(tls)

    def _needs_certificates(self, tls: config.Tls) -> bool:
        return (
            self.certificates is None
            or self.certificates.are_outdated(tls)
            or self.certificates.protocols != self._protocols
        )

    def _read_certificates(self, tls: config.Tls, files: TlsFiles | None = None) -> None:
        before = self.certificates
        self.certificates = new = Certificates(
            tls, self.name, self._tickets, files, self._protocols
        )
        if before is not None and before.files.stamps != new.files.stamps:
            logger.info("frontend %s has new certificates: %s", self.name, new.in_words())

    def _look_at_certificates(self) -> None:
        """Renewed files are in use a minute later, without a reload."""
        self._try_certificates()
        self._watch_certificates()

    def _try_certificates(self) -> None:
        """Reload them if their files have changed; they stay in use if one can't be read."""
        tls = self._configured.tls
        seen = tls and stamps_of(tls)
        try:
            self.reload_certificates()
        except OSError as error:  # perhaps only half of the files have been written yet
            if seen != self._unusable:  # logged once, but retried: the cause may not be the files
                logger.warning("the certificates stay as they were: %s", error.strerror)
            self._unusable = seen
        else:
            self._unusable = None

    def _follow_the_day(self) -> None:
        """Change the ticket keys at 0:00 UTC: in all processes at once, and in later ones.

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
        """The addresses that it listens at, once it does."""
        return [listener.address for listener in self.listeners]

    def trusts(self, address: str) -> bool:
        """True if what this peer, by its plain address, says of its own client counts."""
        return address in self._trusted

    def real_client(self, forwarded_for: list[bytes], peer: str) -> str:
        """The client's address by X-Forwarded-For: the last one that is not a trusted proxy's.

        nginx: `real_ip_header X-Forwarded-For` with `real_ip_recursive on`.
        """
        client = peer
        for entry in reversed(b",".join(forwarded_for).split(b",")):
            if not entry.strip():
                continue  # RFC 9110 section 5.6.1.2
            try:
                candidate = forwarded_address(entry.decode("ascii"))
            except ValueError:
                break
            client = candidate
            if not self.trusts(candidate):
                break
        return client

    async def start(
        self, sockets: Sequence[Sequence[socket.socket]] | None = None, *, may_be_late: bool = False
    ) -> None:
        """Listen, on new sockets or on given ones: a group for each bind, in order.

        Clients are accepted below the connection limit. Raises OSError, whose `strerror` names the
        address. `may_be_late`: if descriptors are lacking, clients wait in the backlog, and nothing
        is raised.
        """
        opened = [
            self._open(bind, None if sockets is None else sockets[number])
            for number, bind in enumerate(self._configured.bind)
        ]
        self._watch_certificates()
        self._context.live.gate.guard(self)
        for listener in opened:
            await (listener.accept_when_possible() if may_be_late else listener.accept())

    async def add(self, bind: config.Bind, sockets: Sequence[socket.socket] | None = None) -> None:
        """Listen at one more address while running. Raises OSError if it can't be had.

        For want of descriptors clients wait in the backlog, and nothing is raised.
        """
        await self._open(bind, sockets).accept_when_possible()

    def _open(self, bind: config.Bind, sockets: Sequence[socket.socket] | None) -> Listener:
        number = len(self.listeners) + 1
        listener = Listener(bind, self, self._context, lambda: self.certificates, sockets, number)
        self.listeners.append(listener)
        if self._is_paused:
            listener.pause()
        return listener

    async def remove(self, bind: config.Bind) -> None:
        """Stop listening there; its connections are kept."""
        for listener in [one for one in self.listeners if one.bind == bind]:
            self.listeners.remove(listener)
            await listener.stop()

    def pause(self) -> None:
        """Stop accepting for now: clients wait in the backlog."""
        self._is_paused = True
        for listener in self.listeners:
            listener.pause()

    def resume(self) -> None:
        """Accept again."""
        self._is_paused = False
        for listener in self.listeners:
            listener.resume()

    async def stop(self) -> None:
        """Close the listening sockets for good; connections are kept, those just accepted too."""
        self.is_stopped = True
        for watch in (self._watch, self._day_watch):
            if watch is not None:
                watch.cancel()
        for listener in self.listeners:
            await listener.stop()
