"""Connections that begin with a PROXY header: it is read here and hidden from the next protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from hermes_lb.listen.proxy_protocol import InvalidHeader, read_header
from hermes_lb.transport.addresses import plain_address

if TYPE_CHECKING:
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.tls.handshake import TlsLayer


class ProxyHeaderReader(asyncio.Protocol):
    """The first protocol of such a connection; `behind` takes over where the header ends.

    The client counts from accept on, but not for an address: both its address and the one that it
    connected to, which servers may receive, come with the header.
    """

    __slots__ = ("_behind", "_client", "_held", "_raw")

    def __init__(self, client: ClientConnection, behind: ClientConnection | TlsLayer) -> None:
        self._client = client
        self._behind = behind
        self._held = bytearray()
        self._raw: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._behind.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        client, held = self._client, self._held
        if client.is_closing:
            return
        client.awaits = "PROXY header"
        held += data
        try:
            header = read_header(held)
        except InvalidHeader as problem:
            client.reject(f"PROXY header: {problem}")
            return
        if header is None:
            return
        client.awaits = ""
        self._raw.set_protocol(cast("asyncio.Protocol", self._behind))
        if header.destination is not None:
            address, port = header.destination
            client.peer.destination = plain_address(address), port
        client.came_from(*(header.source or client.peer_name()))
        if rest := bytes(held[header.size :]):
            self._behind.data_received(rest)

    def eof_received(self) -> bool:
        return self._client.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._behind.connection_lost(error)
