"""Heads as we send them, rebuilt from parsed values. No I/O."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

from hermes_lb.http.bounded_cache import BoundedCache
from hermes_lb.http.request import CHUNKED, RareFields
from hermes_lb.http.response import UNTIL_CLOSE

if TYPE_CHECKING:
    from hermes_lb.http.request import RequestHead
    from hermes_lb.http.response import ResponseHead

# RFC 9110 section 10.1.4: the connection option has to come with it.
_TAKES_TRAILERS = b"TE: trailers\r\nConnection: TE\r\n"
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def identity_fields(address: str, scheme: bytes) -> bytes:
    """What we say of a client whose own word does not count. Cached, so that the connections of one
    address share the bytes."""
    known = _identities.get((address, scheme))
    if known is not None:
        return known
    client = address.encode("ascii")
    fields = (
        b"X-Forwarded-For: %b\r\nX-Real-IP: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: "
    ) % (client, client, scheme)
    return _identities.remember((address, scheme), len(address), fields)


_identities: BoundedCache[tuple[str, bytes], bytes] = BoundedCache(most=1024, longest=64)


def trusted_identity_fields(
    head: RequestHead, peer: str, client: str, scheme: bytes
) -> tuple[bytes, bytes]:
    """The same for a request that came by a trusted proxy -> identity fields, forwarded host.

    `peer` is the proxy's address, `client` the one that it speaks for.
    """
    said = head.rare or RareFields()
    by_way_of = peer.encode("ascii")
    chain = b", ".join([*said.forwarded_for, by_way_of])
    fields = b"".join(said.forwarded_more)
    if said.forwarded:  # RFC 7239 section 4: an IPv6 address has brackets, and so quotes
        node = b'"[%b]"' % by_way_of if b":" in by_way_of else by_way_of
        fields += b"Forwarded: %b, for=%b\r\n" % (b", ".join(said.forwarded), node)
    fields += (
        b"X-Forwarded-For: %b\r\nX-Real-IP: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: "
    ) % (chain, client.encode("ascii"), said.forwarded_proto or scheme)
    return fields, said.forwarded_host or head.host


def build_request(
    head: RequestHead, host: bytes, identity: bytes, forwarded_host: bytes, via: bytes
) -> bytes:
    """The request head for the server. `via`: our own entry, such as b"1.1 hermes-lb-1f00"."""
    rare = head.rare
    more = b""
    if head.length > 0:
        more = b"Content-Length: %d\r\n" % head.length
    elif head.length == CHUNKED:
        more = b"Transfer-Encoding: chunked\r\n"
    elif head.method in _METHODS_WITH_BODY:
        more = b"Content-Length: 0\r\n"  # RFC 9110 section 8.6
    if head.cookies:
        more += b"".join([b"Cookie: %b\r\n" % cookie for cookie in head.cookies])
    if head.upgrade:
        more += _UPGRADE
    if rare is not None:
        if rare.expects_continue:
            more += b"Expect: 100-continue\r\n"
        if rare.hops_left:
            more += b"Max-Forwards: %d\r\n" % (rare.hops_left - 1)
        if rare.takes_trailers and not head.upgrade:
            more += _TAKES_TRAILERS
        via = b", ".join([*rare.via, via])
    return b"".join((
        head.method, b" ", head.target, b" HTTP/1.1\r\nHost: ", host, b"\r\n",
        head.forwarded, more,
        identity, forwarded_host, b"\r\nVia: ", via,
        b"\r\nX-Request-ID: ", head.request_id, b"\r\n\r\n",
    ))  # fmt: skip


_METHODS_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


def date_field(second: int) -> bytes:
    """`Date: Tue, 01 Dec 2026 08:14:00 GMT` with its CRLF (RFC 9110 sections 5.6.7 and 6.6.1).

    `second`: since 1970.
    """
    return b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")


def build_response(
    head: ResponseHead,
    forwarded: bytes,
    to_http11: bool,
    keep_alive: bool,
    body_length: int,
    first: bytes = b"",
) -> bytes:
    """The response head for the client.

    `forwarded`: the fields, each with its CRLF. `body_length` is what follows (bytes, `CHUNKED`,
    `UNTIL_CLOSE`, or 0); a length that the head only announces (HEAD, 304) is passed on. `first`:
    of the body, in the same piece.
    """
    if head.status == 101:  # then the connection is HTTP's no more, whether it is kept or not
        return b"".join((head.status_line, forwarded, _UPGRADE, b"\r\n", first))
    framing = head.length_line
    if to_http11:
        if head.length < 0 and body_length in (CHUNKED, UNTIL_CLOSE):
            framing = b"Transfer-Encoding: chunked\r\n"
        end = b"\r\n" if keep_alive else b"Connection: close\r\n\r\n"
    else:
        end = b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n"
    return b"".join((head.status_line, forwarded, framing, end, first))
