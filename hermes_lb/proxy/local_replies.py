"""Local replies (Envoy's term): the only place where an error becomes a response to the client.

A local reply is sent only before any byte of a response, and while no server works on the request.
The functions end the exchange, and decide whether the connection is kept.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.errors import RequestRefused

if TYPE_CHECKING:
    from hermes_lb.errors import ExchangeFailed
    from hermes_lb.http.https import Redirect
    from hermes_lb.proxy.exchange import Exchange

# Seconds, in Retry-After of a 503: about one round of health checks.
_RETRY_AFTER = 5

_ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"

# For the client; what an error says of servers is for the log only.
_PUBLIC = {
    502: "the server gave no valid answer",
    503: "no server is available, please try again",
    504: "the server did not answer in time",
}


class LocalReply(NamedTuple):
    """`fields`: lines with CRLF, without Content-Length, Date and Connection.

    `is_head`: the body's length is announced, and the body is not sent (RFC 9110 section 9.3.2).
    """

    status: int
    fields: bytes
    body: bytes = b""
    is_head: bool = False


def refusal(error: RequestRefused, *, is_head: bool = False) -> LocalReply:
    """For a request that was not accepted."""
    return _text(error.status, error.reason, error.retry_after, is_head=is_head)


def _text(status: int, detail: str, retry_after: int, *, is_head: bool) -> LocalReply:
    body = f"{status} {HTTPStatus(status).phrase}: {detail}\n".encode("ascii", "replace")
    fields = b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
    if retry_after:
        fields += b"Retry-After: %d\r\n" % retry_after
    if status == 405:
        fields += _ALLOW
    return LocalReply(status, fields, body, is_head)


# Each of these ends an exchange.


def refuse(exchange: Exchange, error: RequestRefused) -> None:
    """The request is not accepted.

    The connection closes, except for a client that may ask the same again later.
    """
    exchange.peer.frontend.counters.refuse(error.status, error.reason)
    exchange.reason = error.reason
    reply = refusal(error, is_head=exchange.head.method == b"HEAD")
    may_keep = bool(error.retry_after) and exchange.may_keep_client
    _send(exchange, reply, error.termination, may_keep=may_keep)


def fail(exchange: Exchange, error: ExchangeFailed) -> None:
    """No server answered it."""
    exchange.reason = str(error)
    status = error.status
    retry_after = _RETRY_AFTER if status == 503 else 0
    is_head = exchange.head.method == b"HEAD"
    reply = _text(status, _PUBLIC[status], retry_after, is_head=is_head)
    _send(exchange, reply, error.termination, may_keep=exchange.may_keep_client)


def came_by_tls(exchange: Exchange) -> bool:
    """To us, or to the trusted proxy that forwarded it."""
    peer, rare = exchange.peer, exchange.head.rare
    said = rare.forwarded_proto if rare is not None and peer.is_trusted else b""
    return (said.lower() or peer.scheme) == b"https"


def redirect(exchange: Exchange, to: Redirect) -> None:
    """To the same resource by TLS; without a body, so that it answers HEAD too."""
    location = to.location(exchange.head)
    if location is None:
        refuse(exchange, RequestRefused(400, "TLS is wanted here, and this request has no host"))
        return
    reply = LocalReply(to.status, b"Location: %b\r\n" % location)
    _send(exchange, reply, "LR", may_keep=exchange.may_keep_client)


def as_final_recipient(exchange: Exchange) -> None:
    """OPTIONS or TRACE whose Max-Forwards is used up (RFC 9110 sections 7.6.2, 9.3.7, 9.3.8)."""
    fields, body = _ALLOW, b""
    if exchange.head.method == b"TRACE":
        fields, body = fields + b"Content-Type: message/http\r\n", exchange.request_head
    _send(exchange, LocalReply(200, fields, body), "LR", may_keep=exchange.may_keep_client)


def _send(exchange: Exchange, reply: LocalReply, termination: str, *, may_keep: bool) -> None:
    client, now = exchange.client, exchange.context.clock()
    is_read = exchange.is_request_read
    exchange.status = reply.status
    exchange.bytes_out += client.reply(reply, may_keep=may_keep)
    exchange.finish(termination, now)
    client.done(now, is_read)
