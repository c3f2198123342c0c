"""Answers of our own to a request: nothing of a response has left, and no server is at work on it.

`responses.py` writes them; here each ends its exchange, and says whether the client's connection
goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.errors import RequestRefused
from hermes_lb.proxy.reply_texts import failure, final_recipient, redirection, refusal

if TYPE_CHECKING:
    from hermes_lb.errors import ExchangeFailed
    from hermes_lb.http.https import Redirect
    from hermes_lb.proxy.state import ExchangeState


def refuse(exchange: ExchangeState, error: RequestRefused) -> None:
    """The request is not accepted.

    The connection closes, but for a client that may ask the same again later.
    """
    keep_alive = bool(error.retry_after) and exchange.may_keep_client
    exchange.client.frontend.counters.refuse(error.status, error.reason)
    exchange.reason = error.reason
    with_body = exchange.head.method != b"HEAD"
    now = exchange.context.clock()
    date = exchange.context.date(now)
    answer = refusal(error, date, keep_alive=keep_alive, with_body=with_body)
    _answer(exchange, answer, now, error.status, error.termination, keep_alive=keep_alive)


def fail(exchange: ExchangeState, error: ExchangeFailed) -> None:
    """No server answers it."""
    keep_alive = exchange.may_keep_client
    exchange.reason = str(error)
    now = exchange.context.clock()
    date = exchange.context.date(now)
    answer = failure(error, date, method=exchange.head.method, keep_alive=keep_alive)
    _answer(exchange, answer, now, error.status, error.termination, keep_alive=keep_alive)


def came_by_tls(exchange: ExchangeState) -> bool:
    """To us, or to the trusted proxy that sent it on."""
    client, rare = exchange.client, exchange.head.rare
    said = rare.forwarded_proto if rare is not None and client.is_trusted else b""
    return (said.lower() or client.via.scheme) == b"https"


def redirect(exchange: ExchangeState, to: Redirect) -> None:
    """To the same thing by TLS."""
    location = to.location(exchange.head)
    if location is None:
        refuse(exchange, RequestRefused(400, "TLS is wanted here, and this request has no host"))
        return
    keep_alive = exchange.may_keep_client
    now = exchange.context.clock()
    answer = redirection(to.status, location, exchange.context.date(now), keep_alive=keep_alive)
    _answer(exchange, answer, now, to.status, "LR", keep_alive=keep_alive)


def as_final_recipient(exchange: ExchangeState) -> None:
    """Max-Forwards is used up (RFC 9110 section 7.6.2)."""
    keep_alive = exchange.may_keep_client
    now = exchange.context.clock()
    date, request_head = exchange.context.date(now), exchange.request_head
    answer = final_recipient(exchange.head.method, request_head, date, keep_alive=keep_alive)
    _answer(exchange, answer, now, 200, "LR", keep_alive=keep_alive)


def _answer(
    exchange: ExchangeState,
    answer: bytes,
    now: float,
    status: int,
    termination: str,
    *,
    keep_alive: bool,
) -> None:
    client, context = exchange.client, exchange.context
    is_read = exchange.is_request_read
    exchange.status = status
    exchange.bytes_out += len(answer)
    context.send(client.transport, answer)
    exchange.finish(termination, now)
    client.exchange_done(now, keep_alive, is_read)
