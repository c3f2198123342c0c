"""Local replies (Envoy's term): the only place where an error becomes a response to the client.

`Exchange.reply` sends it, and ends with it: only before any byte of a response, and while no server
works on the request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb import config
    from hermes_lb.errors import ExchangeFailed
    from hermes_lb.http import RequestHead
    from hermes_lb.http.https import Redirect

# Seconds, in Retry-After of a 503: about one round of health checks.
_RETRY_AFTER = 5

# By status: the type and the text of the page that takes the place of ours.
if TYPE_CHECKING:
    ErrorPages = dict[int, tuple[bytes, bytes]]

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
    `message`: in a line, where a page is the body.
    """

    status: int
    fields: bytes
    body: bytes = b""
    is_head: bool = False
    message: bytes = b""


def error_pages(configured: Mapping[str, config.ErrorPage]) -> ErrorPages:
    """By status; the page of "5xx" is that of each one without a page of its own."""
    made: ErrorPages = {}
    for key in sorted(configured, key=lambda key: key.endswith("xx"), reverse=True):
        page = configured[key]
        statuses = [int(key)] if key.isdigit() else [s for s in HTTPStatus if str(s)[0] == key[0]]
        for status in statuses:
            made[int(status)] = page.content_type.encode(), (page.text or "").encode()
    return made


def refusal(error: RequestRefused, pages: ErrorPages, *, is_head: bool = False) -> LocalReply:
    """For a request that was not accepted."""
    return _text(error.status, error.reason, error.retry_after, pages, is_head=is_head)


def _text(
    status: int, detail: str, retry_after: int, pages: ErrorPages, *, is_head: bool
) -> LocalReply:
    message = f"{status} {HTTPStatus(status).phrase}: {detail}\n".encode("ascii", "replace")
    kind, body = pages.get(status, (b"text/plain; charset=utf-8", message))
    fields = b"Content-Type: %b\r\nCache-Control: no-store\r\n" % kind
    if retry_after:
        fields += b"Retry-After: %d\r\n" % retry_after
    if status == 405:
        fields += _ALLOW
    return LocalReply(status, fields, body, is_head, message)


def failure(error: ExchangeFailed, pages: ErrorPages, *, is_head: bool) -> LocalReply:
    """For a request that no server has answered."""
    status = error.status
    retry_after = _RETRY_AFTER if status == 503 else 0
    return _text(status, _PUBLIC[status], retry_after, pages, is_head=is_head)


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
