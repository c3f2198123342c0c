"""Records of ended requests: the counters, and a line in the access log.

`_of_exchange` is the only place that reads an exchange for the log.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from hermes_lb.affinity import request_letter
from hermes_lb.backends.counters import FINE_BOUNDS, SHORTEST
from hermes_lb.observe import recent
from hermes_lb.observe.escaping import NOTHING_CAPTURED
from hermes_lb.observe.record import (
    AT_ONCE,
    FIRST_ATTEMPT,
    NEVER_SENT,
    Attempts,
    LogRecord,
    ToServer,
)
from hermes_lb.observe.termination import NO_COOKIE, aborted_by

if TYPE_CHECKING:
    from hermes_lb.backends import RequestCounters
    from hermes_lb.errors import RequestRefused
    from hermes_lb.observe.sampling import Sampler
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.ports import Downstream


def record_exchange(exchange: Exchange, now: float, termination: str) -> None:
    """Count the exchange where it ended, and log it."""
    backend, server = exchange.backend, exchange.server
    if backend is not None:
        counters = backend.pool.unserved if server is None else server.counters
        counters.responses[exchange.status // 100] += 1
        if exchange.bytes_in:
            counters.bytes_in += exchange.bytes_in
        counters.bytes_out += exchange.bytes_out
        began = exchange.started_at
        took = now - began
        if exchange.response_at == now:  # it came whole
            histogram = counters.at_once
        else:
            histogram = counters.latency
            _count_stream(exchange, counters, now)
        # `Histogram.observe`, without the call; most requests take less than the first bound.
        bucket = bisect_left(FINE_BOUNDS, took) if took > SHORTEST else 0
        histogram.counts[bucket] += 1
        histogram.total += took
        if exchange.connected_at != began:
            _count_phases(exchange, counters, now)
        if termination != "--":
            _count_abort(counters, termination)
    context = exchange.context
    recorder, log = context.log.recorder, context.log.access_log
    spans = recorder.spans
    policy = exchange.policy
    sampler = recorder.sampler if policy is None else policy.sampler
    record: LogRecord | None = None
    if (
        (log.enabled or spans is not None)
        and exchange.is_logged
        and (sampler is None or _is_wanted(exchange, termination, sampler))
    ):
        record = _of_exchange(exchange, now, termination)
        if log.enabled:
            log.write(recorder.line(record))
        if spans is not None:
            at = exchange.response_at
            spans.end(record, exchange.is_stream, at - exchange.started_at if at >= 0.0 else None)
    if termination != "--" and _went_wrong(termination):
        record = record or _of_exchange(exchange, now, termination)
        context.recent.add(recent.abort(record, now + context.wall_clock.offset))


def record_refusal(
    client: Downstream, context: Context, now: float, error: RequestRefused, size: int = 0
) -> None:
    """The same for bytes that never became a request, whose answer had `size` bytes."""
    client.peer.frontend.counters.refuse(error.status, error.reason)
    log = context.log
    if log.access_log.enabled:
        record = _of_refusal(client, context, now, error, size)
        log.access_log.write(log.recorder.line(record))


# Counting.


def _count_stream(exchange: Exchange, counters: RequestCounters, now: float) -> None:
    if exchange.response_at >= 0.0:
        counters.time_to_first_byte.observe(exchange.response_at - exchange.started_at)
        if exchange.is_stream:
            counters.stream_length.observe(now - exchange.response_at)


def _count_phases(exchange: Exchange, counters: RequestCounters, now: float) -> None:
    """Of a request that was not sent at once, or never."""
    counters.late += 1
    connected, response_at = exchange.connected_at, exchange.response_at
    waited = exchange.waited()
    if waited >= 0.0:
        counters.waiting.observe(waited)
    if response_at >= connected >= 0.0:
        counters.response_shift.move(response_at - exchange.started_at, response_at - connected)


def _count_abort(counters: RequestCounters, termination: str) -> None:
    by = aborted_by(termination)
    if by == "client":
        counters.aborted_by_client += 1
    elif by == "server":
        counters.aborted_by_server += 1


# Which requests are logged, and which are kept for the dashboard.


def _is_wanted(exchange: Exchange, termination: str, sampler: Sampler) -> bool:
    """Not normal (HAProxy's `option dontlog-normal`), slow to answer, or in the sample."""
    return (
        termination != "--"
        or exchange.status >= 500
        or exchange.retries > 0
        or exchange.response_at - exchange.started_at > sampler.slow
        or sampler.takes()
    )


def _went_wrong(termination: str) -> bool:
    """A request that we refused did not."""
    return termination != "PR" and aborted_by(termination) is not None


# Exchange -> record.


def _of_exchange(exchange: Exchange, now: float, termination: str) -> LogRecord:
    peer, context = exchange.peer, exchange.context
    frontend, backend, server = peer.frontend, exchange.backend, exchange.server
    began, connected, response_at = exchange.started_at, exchange.connected_at, exchange.response_at
    record = LogRecord()
    record.client = exchange.client_address
    record.port = peer.port
    record.frontend = frontend.name
    record.connections = len(context.live.clients)
    record.frontend_connections = frontend.counters.connections
    if backend is None:
        record.backend = ""
        record.backend_load = 0
        record.termination = termination + NO_COOKIE
    else:
        pool = backend.pool
        record.backend = backend.name
        record.backend_load = pool.in_flight + len(pool.waiting)
        affinity = backend.affinity
        record.termination = termination + (
            NO_COOKIE
            if affinity is None
            else request_letter(exchange.reading, server) + exchange.response_letter
        )
    if server is None:
        record.server = ""
        record.server_load = 0
    else:
        record.server = server.name
        record.server_load = server.in_flight
    record.began = began + context.wall_clock.offset
    record.to_server = AT_ONCE if connected == began else _to_server(exchange)
    record.response = response_at - connected if response_at >= connected >= 0.0 else None
    record.total = now - began
    record.status = exchange.status
    record.bytes_received = exchange.bytes_in
    record.bytes_sent = exchange.bytes_out
    record.reason = exchange.reason
    if exchange.retries or exchange.queue_position:
        record.attempts = _attempts(exchange)
    else:
        record.attempts = FIRST_ATTEMPT
    record.request = exchange.head
    record.captured = exchange.captured
    record.tls = peer.tls_version
    return record


def _attempts(exchange: Exchange) -> Attempts:
    stream = exchange.stream
    return Attempts(
        exchange.retries,
        # The server that resumed a stream was not reached by a retry.
        bool(exchange.tried) if stream is None else stream.was_redispatched,
        exchange.queue_position,
        exchange.pinned_to is not None,
    )


def _to_server(exchange: Exchange) -> ToServer:
    connected, waited = exchange.connected_at, exchange.waited()
    return ToServer(
        exchange.head_at - exchange.started_at,
        waited if waited >= 0.0 else None,
        connected - exchange.dispatched_at if connected >= 0.0 else None,
    )


def _of_refusal(
    client: Downstream, context: Context, now: float, error: RequestRefused, size: int
) -> LogRecord:
    record = LogRecord()
    peer, began = client.peer, client.received_at
    frontend = peer.frontend
    record.client = peer.address
    record.port = peer.port
    record.frontend = frontend.name
    record.connections = len(context.live.clients)
    record.frontend_connections = frontend.counters.connections
    record.backend = record.server = ""
    record.backend_load = record.server_load = 0
    record.termination = error.termination + NO_COOKIE
    record.began = began + context.wall_clock.offset
    record.to_server = NEVER_SENT
    record.response = None
    record.total = now - began
    record.status = error.status
    record.bytes_received = 0
    record.bytes_sent = size
    record.reason = error.reason
    record.attempts = FIRST_ATTEMPT
    record.request = None
    record.captured = NOTHING_CAPTURED
    record.tls = peer.tls_version
    return record
