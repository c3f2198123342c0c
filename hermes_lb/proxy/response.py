"""The fields of a server's response, rewritten for the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.response_cookies import with_cookie
from hermes_lb.http.https import hsts_unless_said

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.exchange import Exchange


def rewritten(
    exchange: Exchange,
    head: ResponseHead,
    affinity: CookieAffinity | None,
    server: Server,
    now: float,
) -> bytes:
    """With the affinity cookie, and HSTS. The exchange gets the cookie's letter."""
    fields = head.forwarded
    if affinity is not None and affinity.knows(server):
        wall_clock = exchange.context.wall_clock
        seconds = wall_clock.seconds_since_1970(now) if affinity.has_dates else 0
        fields, exchange.response_letter = with_cookie(
            affinity, server, head, exchange.head.method, exchange.reading, seconds
        )
    peer = exchange.peer
    if (hsts := peer.frontend.hsts) and peer.tls_version:
        fields += hsts_unless_said(hsts, head.forwarded)
    return fields
