"""Local replies (Envoy's term): the only place where an error becomes a response to the client.

`Exchange.reply` sends it, and ends with it: only before any byte of a response, and while no server
works on the request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.errors import RequestRefused

if TYPE_CHECKING:
    from hermes_lb.errors import ExchangeFailed
    from hermes_lb.http import RequestHead
    from hermes_lb.http.https import Redirect

# Seconds, in Retry-After of a 503: about one round of health checks.
_RETRY_AFTER = 5

_ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"

# For the client; what an error says of servers is for the log only.
_PUBLIC = {
    404: "the session has ended, please begin another one",
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


def failure(error: ExchangeFailed, *, is_head: bool) -> LocalReply:
    """For a request that no server has answered."""
    status = error.status
    retry_after = _RETRY_AFTER if status == 503 else 0
    return _text(status, _PUBLIC[status], retry_after, is_head=is_head)


def redirect(head: RequestHead, to: Redirect) -> LocalReply:
    """To the same resource by TLS; without a body, so that it answers HEAD too.

    Raises RequestRefused if the request has no host.
    """
    location = to.location(head)
    if location is None:
        raise RequestRefused(400, "TLS is wanted here, and this request has no host")
    return LocalReply(to.status, b"Location: %b\r\n" % location)


def as_final_recipient(method: bytes, request_head: bytes) -> LocalReply:
    """OPTIONS or TRACE whose Max-Forwards is used up (RFC 9110 sections 7.6.2, 9.3.7, 9.3.8)."""
    if method == b"TRACE":
        return LocalReply(200, _ALLOW + b"Content-Type: message/http\r\n", request_head)
    return LocalReply(200, _ALLOW)
