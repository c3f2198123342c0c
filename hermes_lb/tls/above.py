"""The connection above a `TlsLayer`, as the layer sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import trait

if TYPE_CHECKING:
    import asyncio

    from hermes_lb.errors import RequestRefused


@trait
class TlsClient:
    """A client's connection. It exists, and counts, from accept on."""

    __slots__ = ()

    is_closing: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise NotImplementedError

    def tls_begun(self) -> None:
        """Bytes have come; until `tls_opened` the connection is within its handshake."""
        raise NotImplementedError

    def tls_opened(self, version: str, server_name: str, certificate: bytes) -> None:
        """The handshake is done. `server_name`: by SNI, or "". `certificate`: field lines about the
        client's, for the servers."""
        raise NotImplementedError

    def tls_failed(self) -> None:
        """The connection has ended within its handshake."""
        raise NotImplementedError

    def refuse(self, error: RequestRefused) -> None:
        """Answer plain HTTP, and close."""
        raise NotImplementedError

    def reject(self, reason: str, termination: str = "PR") -> None:
        """Close without a response."""
        raise NotImplementedError

    def cut(self, reason: str) -> None:
        """End at once, and any request with it."""
        raise NotImplementedError
