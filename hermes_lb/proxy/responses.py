"""The one place where an error becomes a response to the client."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.errors import ExchangeFailed, RequestRefused

# Seconds, in Retry-After of a 503: about one round of health checks.
_RETRY_AFTER = 5


def refusal(error: RequestRefused) -> bytes:
    """For a request that was not accepted. The connection closes behind it."""
    return _response(error.status, str(error), keep_alive=False, with_body=True)


def failure(error: ExchangeFailed, *, method: bytes, keep_alive: bool) -> bytes:
    """For a request that no server answered. What it says of servers is for the log only."""
    return _response(
        error.status, _PUBLIC[error.status], keep_alive=keep_alive, with_body=method != b"HEAD"
    )


_PUBLIC = {
    502: "the server gave no valid answer",
    503: "no server is available, please try again",
    504: "the server did not answer in time",
}


def _response(status: int, detail: str, *, keep_alive: bool, with_body: bool) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}: {detail}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Cache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    if status == 503:
        head += f"Retry-After: {_RETRY_AFTER}\r\n"
    if status == 405:
        head += "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    head += f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    return head.encode("ascii") + (body if with_body else b"")
