"""The affinity cookie in the response of one exchange, and its letter in the access log.

The server's own cookie of that name is removed, rewritten or kept; the balancer's is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.affinity import Reading

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead
    from hermes_lb.proxy.exchange import Exchange


def without_the_servers(
    exchange: Exchange, affinity: CookieAffinity, server: Server, head: ResponseHead
) -> tuple[bytes, bytes]:
    """The forwarded fields without the server's own affinity cookie, and those that replace it.

    Both are field lines, each with its CRLF.
    """
    cookies = [
        (position, value)
        for position, (name, value) in enumerate(head.fields())
        if name.lower() == b"set-cookie"
    ]
    if any(affinity.preserves(value) for _, value in cookies):
        exchange.response_letter = "P"
    doomed = [position for position, value in cookies if affinity.strips(value)]
    if not doomed:
        return head.forwarded, b""
    if affinity.inserts:
        exchange.response_letter = "D"
        return head.forwarded_without(doomed), b""
    exchange.response_letter = "R"
    rewritten = [affinity.rewritten(head.values[position], server) for position in doomed]
    lines = b"".join(b"Set-Cookie: %b\r\n" % value for value in rewritten)
    return head.forwarded_without(doomed), lines


def set_cookie(
    exchange: Exchange, affinity: CookieAffinity, server: Server, head: ResponseHead
) -> bytes:
    """The affinity cookie, unless the client's names this server, or the server's was kept."""
    if exchange.response_letter == "P":
        return b""
    if affinity.has_dates:
        return _set_dated(exchange, affinity, server, head)
    named = affinity.server_for(exchange.cookie) if exchange.cookie is not None else None
    if named is server:
        return b""
    exchange.response_letter = "I"
    return affinity.inserted(server, exchange.head.method, head)


def _set_dated(
    exchange: Exchange, affinity: CookieAffinity, server: Server, head: ResponseHead
) -> bytes:
    reading = exchange.reading or Reading(None)
    value = affinity.dated(server, reading, exchange.context.seconds_since_1970())
    if value is None:
        return b""
    # HAProxy calls it updated if the client stays where it was.
    exchange.response_letter = "U" if reading.server is server else "I"
    return affinity.inserted(server, exchange.head.method, head, value)
