"""The one place where an error becomes a response to the client.

`date` is the field Date, with its CRLF (`Context.date`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.errors import ExchangeFailed, RequestRefused

# Seconds, in Retry-After of a 503: about one round of health checks.
_RETRY_AFTER = 5

_ALLOW = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def refusal(
    error: RequestRefused, date: bytes, *, keep_alive: bool = False, with_body: bool = True
) -> bytes:
    """For a request that was not accepted. Mostly its end is unknown: the connection closes."""
    return _response(
        error.status,
        error.reason,
        date,
        keep_alive=keep_alive,
        with_body=with_body,
        retry_after=error.retry_after,
    )


def final_recipient(method: bytes, request_head: bytes, date: bytes, *, keep_alive: bool) -> bytes:
    """For OPTIONS or TRACE whose hops are used up (RFC 9110 sections 7.6.2, 9.3.7 and 9.3.8)."""
    body = request_head if method == b"TRACE" else b""
    head = b"HTTP/1.1 200 OK\r\nAllow: %b\r\n%b" % (_ALLOW, date)
    if body:
        head += b"Content-Type: message/http\r\n"
    head += b"Content-Length: %d\r\n" % len(body)
    return head + (b"" if keep_alive else b"Connection: close\r\n") + b"\r\n" + body


def redirection(status: int, location: bytes, date: bytes, *, keep_alive: bool) -> bytes:
    """To another address; without a body, so that it answers HEAD too."""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode("ascii")
        + b"Location: %b\r\nContent-Length: 0\r\n%b" % (location, date)
        + (b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n")
    )


def failure(error: ExchangeFailed, date: bytes, *, method: bytes, keep_alive: bool) -> bytes:
    """For a request that no server answered. What it says of servers is for the log only."""
    return _response(
        error.status,
        _PUBLIC[error.status],
        date,
        keep_alive=keep_alive,
        with_body=method != b"HEAD",
        retry_after=_RETRY_AFTER if error.status == 503 else 0,
    )


_PUBLIC = {
    502: "the server gave no valid answer",
    503: "no server is available, please try again",
    504: "the server did not answer in time",
}


def _response(
    status: int, detail: str, date: bytes, *, keep_alive: bool, with_body: bool, retry_after: int
) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}: {detail}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Cache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    if retry_after:
        head += f"Retry-After: {retry_after}\r\n"
    if status == 405:
        head += f"Allow: {_ALLOW.decode()}\r\n"
    head += f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n"
    return head.encode("ascii") + date + b"\r\n" + (body if with_body else b"")
