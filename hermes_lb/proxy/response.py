"""The head of a server's response, rewritten for the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity.response_cookies import set_cookie, without_the_servers
from hermes_lb.http.https import hsts_unless_said

if TYPE_CHECKING:
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.select import Backend


def forwarded_head(
    exchange: Exchange,
    backend: Backend,
    server: Server,
    head: ResponseHead,
    length: int,
    now: float,
) -> bytes:
    """The bytes of the head: with the affinity cookie, HSTS and a Date where they are due.

    `length`: of the body that follows, or negative.
    """
    context, request, peer = exchange.context, exchange.head, exchange.peer
    lines, added = head.forwarded, b""
    if (affinity := backend.affinity) is not None and affinity.knows(server):
        if head.has_set_cookie:
            lines, added = without_the_servers(exchange, affinity, server, head)
        if affinity.inserts:
            added = set_cookie(exchange, affinity, server, head)
    if (hsts := peer.frontend.hsts) and peer.tls_version:
        added += hsts_unless_said(hsts, lines)
    if not head.has_date and head.status >= 200:
        added += context.date(now)  # RFC 9110 section 6.6.1
    upload = exchange.upload
    may_keep = context.keeps_clients and request.keep_alive and (upload is None or upload.is_read)
    return exchange.client.head(head, lines, added, length, may_keep)
