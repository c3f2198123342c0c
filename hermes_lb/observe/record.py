"""What is kept of a request that is over: the counters, and a line in the access log."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from hermes_lb.backends.counters import LATENCY_BOUNDS
from hermes_lb.observe import recent
from hermes_lb.observe.httplog import REQUEST_MAX, request_text
from hermes_lb.observe.log_lines import letters, line_format
from hermes_lb.observe.sampling import Sampler
from hermes_lb.observe.termination import aborted_by

if TYPE_CHECKING:
    from hermes_lb import config
    from hermes_lb.backends import RequestCounters
    from hermes_lb.errors import RequestRefused
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.http1.client import ClientConnection


class Recorder:
    """How requests are written down, as `[log]` has it; chosen once, at the start.

    - `line_of_exchange`, `line_of_refusal`: the format.
    - `sampler`: None if every request has a line.
    - `captures`: the format shows fields of the head that nobody else looks at.
    - `makes_traces`: a request that comes without a trace gets one.
    """

    __slots__ = ("captures", "line_of_exchange", "line_of_refusal", "makes_traces", "sampler")

    def __init__(self, configured: config.Log) -> None:
        line = line_format(configured)
        self.line_of_exchange = line.of_exchange
        self.line_of_refusal = line.of_refusal
        self.captures = configured.access != "off" and line.captures
        self.makes_traces = configured.traceparent == "make"
        self.sampler = (
            Sampler(configured.sample, configured.slow) if configured.sample < 1.0 else None
        )


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
        histogram.counts[bisect_left(LATENCY_BOUNDS, took)] += 1  # `observe`, without the call
        histogram.total += took
        if exchange.connected_at != began:
            _count_phases(exchange, counters, now)
        if termination != "--":
            _count_abort(counters, termination)
    context = exchange.context
    log, recorder = context.access_log, context.recorder
    if (
        log.enabled
        and exchange.is_logged
        and (recorder.sampler is None or _is_wanted(exchange, termination, recorder.sampler))
    ):
        log.write(recorder.line_of_exchange(exchange, now, termination))
    if termination != "--":
        _remember(exchange, now, termination)


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


def _is_wanted(exchange: Exchange, termination: str, sampler: Sampler) -> bool:
    """Not normal (HAProxy's `option dontlog-normal`), slow to answer, or in the sample."""
    return (
        termination != "--"
        or exchange.status >= 500
        or exchange.retries > 0
        or exchange.response_at - exchange.started_at > sampler.slow
        or sampler.takes()
    )


def _remember(exchange: Exchange, now: float, termination: str) -> None:
    """For who looks at the dashboard. What we refused was no request that went wrong."""
    if termination == "PR" or aborted_by(termination) is None:
        return
    peer, head, context = exchange.peer, exchange.head, exchange.context
    context.recent.add(
        recent.record(
            at=now + context.wall_clock_offset,
            client=exchange.client_address,
            frontend=peer.frontend.name,
            backend=exchange.backend.name if exchange.backend is not None else None,
            server=exchange.server.name if exchange.server is not None else None,
            termination=letters(exchange, termination),
            status=exchange.status,
            duration=now - exchange.started_at,
            request=request_text(head.method, head.target[:REQUEST_MAX], head.minor_version),
            reason=exchange.reason,
        )
    )


def record_refusal(
    client: ClientConnection, now: float, error: RequestRefused, size: int = 0
) -> None:
    """The same for bytes that never became a request. Status 0: nothing was sent."""
    client.peer.frontend.counters.refuse(error.status, error.reason)
    context = client.context
    if context.access_log.enabled:
        context.access_log.write(context.recorder.line_of_refusal(client, now, error, size))
