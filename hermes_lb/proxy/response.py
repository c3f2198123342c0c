"""The fields of a server's response, rewritten for the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.response_cookies import with_cookie
from hermes_lb.http.https import hsts_unless_said

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.affinity.response_cookies import Asked
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.ports import Peer


def rewritten(
    head: ResponseHead, affinity: CookieAffinity | None, server: Server, asked: Asked, peer: Peer
) -> tuple[bytes, str]:
    """With the affinity cookie, and HSTS; and the cookie's letter for the log."""
    lines, added, letter = head.forwarded, b"", "N"
    if affinity is not None and affinity.knows(server):
        lines, added, letter = with_cookie(affinity, server, head, asked)
    if (hsts := peer.frontend.hsts) and peer.tls_version:
        added += hsts_unless_said(hsts, lines)
    return lines + added, letter
