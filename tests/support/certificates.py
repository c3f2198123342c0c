"""Certificates, and contexts of the ssl module that show or trust them."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


@cache
def authority() -> trustme.CA:
    """The authority that has signed all certificates of these tests."""
    return trustme.CA()


def site(
    folder: Path, *names: str, key: trustme.KeyType = trustme.KeyType.ECDSA, file: str = "",
    not_after: datetime | None = None,
) -> str:  # fmt: skip
    """A new certificate for these names, with its key, in one file -> its path."""
    path = folder / (file or f"{names[0].replace('*', '_')}.pem")
    issued = authority().issue_cert(*names, key_type=key, not_after=not_after)
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    return str(path)


def ca_file(folder: Path) -> str:
    path = folder / "ca.crt"
    authority().cert_pem.write_to_path(str(path))
    return str(path)


def trusting() -> ssl.SSLContext:
    """What a client that knows the authority has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


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
