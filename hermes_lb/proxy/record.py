"""What is kept of a request that is over: the counters, and a line in the access log."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from hermes_lb.affinity import request_letter
from hermes_lb.observe.httplog import (
    AT_ONCE,
    BAD_REQUEST,
    FIRST_ATTEMPT,
    NO_SERVER,
    attempts_text,
    format_line,
    request_text,
    with_reason,
)
from hermes_lb.observe.termination import aborted_by
from hermes_lb.pool.counters import LATENCY_BOUNDS

if TYPE_CHECKING:
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.errors import RequestRefused
    from hermes_lb.pool import RequestCounters
    from hermes_lb.proxy.client import ClientConnection
    from hermes_lb.proxy.exchange import Exchange


def record_exchange(exchange: Exchange, now: float, termination: str) -> None:
    """Count the exchange where it ended, and log it."""
    backend, server = exchange.backend, exchange.server
    if backend is not None:
        counters = backend.pool.unserved if server is None else server.counters
        counters.responses[exchange.status // 100] += 1
        if exchange.bytes_in:
            counters.bytes_in += exchange.bytes_in
        counters.bytes_out += exchange.bytes_out
        took = now - exchange.started_at
        if exchange.response_at == now:  # it came whole
            histogram = counters.at_once
        else:
            histogram = counters.latency
            _count_stream(exchange, counters, now)
        histogram.counts[bisect_left(LATENCY_BOUNDS, took)] += 1  # `observe`, without the call
        histogram.total += took
        if termination != "--":
            _count_abort(counters, termination)
    log = exchange.context.access_log
    if log.enabled and exchange.is_logged:
        log.write(_line(exchange, now, termination))


def _count_stream(exchange: Exchange, counters: RequestCounters, now: float) -> None:
    if exchange.response_at >= 0.0:
        counters.time_to_first_byte.observe(exchange.response_at - exchange.started_at)
        if exchange.is_stream:
            counters.stream_length.observe(now - exchange.response_at)


def _count_abort(counters: RequestCounters, termination: str) -> None:
    by = aborted_by(termination)
    if by == "client":
        counters.aborted_by_client += 1
    elif by == "server":
        counters.aborted_by_server += 1


def _line(exchange: Exchange, now: float, termination: str) -> str:
    client, context, head = exchange.client, exchange.context, exchange.head
    frontend, backend, server = client.frontend, exchange.backend, exchange.server
    began, connected, response_at = exchange.started_at, exchange.connected_at, exchange.response_at
    if backend is None or server is None:
        name = frontend.name if backend is None else backend.name
        served_by, in_backend, in_server = f"{name}/{NO_SERVER}", 0, 0
    else:
        served_by = backend.log_names[server]
        in_backend, in_server = backend.pool.in_flight, server.in_flight
    if backend is None or backend.affinity is None:
        termination += "--"
    elif exchange.cookie is None:
        termination += "N" + exchange.response_letter
    else:
        termination += _cookie_letters(exchange, exchange.cookie, backend.affinity)
    return format_line(
        client.log_name if exchange.client_address is client.address else _log_name(exchange),
        int((began + context.wall_clock_offset) * 1000.0),
        frontend.name,
        served_by,
        AT_ONCE if connected == began else _to_connect(exchange),
        int((response_at - connected) * 1000.0) if response_at >= 0.0 else -1,
        int((now - began) * 1000.0),
        exchange.status or -1,
        exchange.bytes_out,
        termination,
        len(context.clients),
        frontend.counters.connections,
        in_backend,
        in_server,
        _attempts(exchange)
        if exchange.retries or exchange.queue_position or exchange.reason
        else FIRST_ATTEMPT,
        request_text(head.method, head.target, head.minor_version),
    )


def _to_connect(exchange: Exchange) -> str:
    """In milliseconds; -1 for a phase that was not reached."""
    head_at, dispatched = exchange.head_at, exchange.dispatched_at
    tr = int((head_at - exchange.started_at) * 1000.0)
    tw = int((dispatched - head_at) * 1000.0) if dispatched >= 0.0 else -1
    tc = int((exchange.connected_at - dispatched) * 1000.0) if exchange.connected_at >= 0.0 else -1
    return f"{tr}/{tw}/{tc}"


def _log_name(exchange: Exchange) -> str:
    """The client that a trusted proxy speaks for; the port is the proxy's (HAProxy `set-src`)."""
    return f"{exchange.client_address}:{exchange.client.port}"


def _attempts(exchange: Exchange) -> str:
    position, is_pinned = exchange.queue_position, exchange.pinned_to is not None
    attempts = attempts_text(
        exchange.retries,
        is_redispatched=bool(exchange.tried),
        server_queue=position if is_pinned else 0,
        backend_queue=0 if is_pinned else position,
    )
    return with_reason(attempts, exchange.reason) if exchange.reason else attempts


def _cookie_letters(exchange: Exchange, cookie: bytes, affinity: CookieAffinity) -> str:
    if exchange.reading is not None and exchange.reading.letter:
        return exchange.reading.letter + exchange.response_letter
    named = affinity.server_for(cookie)
    answered = exchange.server if exchange.response_at >= 0.0 else None
    return request_letter(cookie, named, answered) + exchange.response_letter


def record_refusal(
    client: ClientConnection, now: float, error: RequestRefused, size: int = 0
) -> None:
    """The same for bytes that never became a request. Status 0: nothing was sent."""
    client.frontend.counters.refuse(error.status, error.reason)
    log = client.context.access_log
    if log.enabled:
        name = client.frontend.name
        began = int((client.received_at + client.context.wall_clock_offset) * 1000.0)
        log.write(
            format_line(
                client.log_name, began, name, f"{name}/{NO_SERVER}",
                "-1/-1/-1", -1, int((now - client.received_at) * 1000.0),
                error.status or -1, size, error.termination + "--",
                len(client.context.clients), client.frontend.counters.connections, 0, 0,
                with_reason(FIRST_ATTEMPT, error.reason), BAD_REQUEST,
            )
        )  # fmt: skip
