"""From HTTP to HTTPS: a redirect for clients without TLS, and HSTS for clients with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from hermes_lb.http import RequestHead


class Redirect(NamedTuple):
    """Answers plain HTTP with the address of the same thing by TLS."""

    status: int
    port: bytes  # as it stands behind the host: b":8443", or nothing

    @classmethod
    def of(cls, status: int | None, port: int) -> Self | None:
        """None without a status."""
        return cls(status, b"" if port == 443 else b":%d" % port) if status is not None else None

    def location(self, head: RequestHead) -> bytes | None:
        """None for a request that has no such address: without a host, or not for a path."""
        if not head.host_name or not head.target.startswith(b"/"):
            return None
        return b"https://%b%b%b" % (head.host_name.encode("ascii"), self.port, head.target)


def hsts_unless_said(field: bytes, forwarded: bytes) -> bytes:
    """Nothing if the server has said its own: browsers heed one only (RFC 6797 section 8.1)."""
    return b"" if b"strict-transport-security:" in forwarded.lower() else field


def hsts_field(max_age: float | None, *, subdomains: bool, preload: bool) -> bytes:
    """RFC 6797 section 6.1, as a line; nothing without a `max_age`, in seconds."""
    if max_age is None:
        return b""
    field = b"Strict-Transport-Security: max-age=%d" % max_age
    if subdomains:
        field += b"; includeSubDomains"
    if preload:
        field += b"; preload"
    return field + b"\r\n"
