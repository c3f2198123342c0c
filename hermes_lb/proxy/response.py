"""The fields of a server's response, rewritten for the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import trait

from hermes_lb.affinity.response_cookies import with_cookie
from hermes_lb.http.https import hsts_unless_said

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity, Reading
    from hermes_lb.affinity.response_cookies import Fields
    from hermes_lb.backends import Server
    from hermes_lb.http import RequestHead, ResponseHead
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.ports import Peer


@trait
class Answered:
    """An exchange whose response has begun. `reading`: of the client's affinity cookie."""

    __slots__ = ()

    context: Context
    head: RequestHead
    peer: Peer
    reading: Reading | None


def rewritten(
    exchange: Answered,
    head: ResponseHead,
    affinity: CookieAffinity | None,
    server: Server,
    now: float,
) -> Fields:
    """With the affinity cookie, and HSTS; and the cookie's letter, for the log."""
    fields, letter = head.forwarded, "N"
    if affinity is not None and affinity.knows(server):
        seconds = 0
        if affinity.has_dates:
            seconds = exchange.context.wall_clock.seconds_since_1970(now)
        fields, letter = with_cookie(
            affinity, server, head, exchange.head.method, exchange.reading, seconds
        )
    peer = exchange.peer
    if (hsts := peer.frontend.hsts) and peer.tls_version:
        fields += hsts_unless_said(hsts, head.forwarded)
    return fields, letter
