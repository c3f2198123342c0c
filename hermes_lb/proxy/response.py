"""The fields of a server's response, rewritten for the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.response_cookies import with_cookie
from hermes_lb.http.https import hsts_unless_said

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity, Reading
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.ports import Peer


def rewritten(
    head: ResponseHead,
    affinity: CookieAffinity | None,
    server: Server,
    method: bytes,
    reading: Reading | None,
    peer: Peer,
    seconds: float,
) -> tuple[bytes, str]:
    """With the affinity cookie, and HSTS; and the cookie's letter for the log.

    `method`, `reading`, `seconds`: as for `with_cookie`.
    """
    fields, letter = head.forwarded, "N"
    if affinity is not None and affinity.knows(server):
        fields, letter = with_cookie(affinity, server, head, method, reading, seconds)
    if (hsts := peer.frontend.hsts) and peer.tls_version:
        fields += hsts_unless_said(hsts, head.forwarded)
    return fields, letter
