"""A server behind the balancer that speaks TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from tests.proxy.support import AtOrigin, Origin
from tests.proxy.tls_peer import TlsPeer

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    import trustme


def server_context(
    certificate: trustme.LeafCert, *, ca: trustme.CA | None = None
) -> ssl.SSLContext:
    """A server's; with `ca` it wants to see a certificate of that one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        ca.configure_trust(context)
    return context


def pem(folder: Path, name: str, content: bytes) -> str:
    """A file for the configuration."""
    path = folder / name
    path.write_bytes(content)
    return str(path)


class TlsAtOrigin(TlsPeer, AtOrigin):
    """A connection that an origin has accepted; `server_name` is what was asked for."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.server_name: str | None = None
        context.sni_callback = self._note_name
        super().__init__(sock, context, server_side=True)

    def _note_name(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.server_name = name


async def accept_tls(
    origin: Origin, context: ssl.SSLContext, accepted: AtOrigin | None = None
) -> TlsAtOrigin:
    """The next connection, or the one that was accepted, up to the end of its handshake."""
    connection = TlsAtOrigin((accepted or await origin.accept()).sock, context)
    await connection.shake_hands()
    return connection
