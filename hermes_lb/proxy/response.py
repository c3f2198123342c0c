"""The fields of a server's response, rewritten for the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.response_cookies import set_cookie, without_the_servers
from hermes_lb.http.https import hsts_unless_said

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.select import Backend


def rewritten(
    exchange: Exchange, backend: Backend, server: Server, head: ResponseHead
) -> tuple[bytes, bytes]:
    """The fields that are forwarded, and those that are added: the affinity cookie, and HSTS."""
    peer = exchange.peer
    lines, added = head.forwarded, b""
    if (affinity := backend.affinity) is not None and affinity.knows(server):
        if head.has_set_cookie:
            lines, added = without_the_servers(exchange, affinity, server, head)
        if affinity.inserts:
            added = set_cookie(exchange, affinity, server, head)
    if (hsts := peer.frontend.hsts) and peer.tls_version:
        added += hsts_unless_said(hsts, lines)
    return lines, added
