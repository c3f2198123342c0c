"""An exchange that is over -> its line of the access log, in each of the formats.

How a line looks is decided in `hermes_lb.observe`; here is where its values come from.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.affinity import request_letter
from hermes_lb.observe import combined, json_log
from hermes_lb.observe.httplog import (
    AT_ONCE,
    BAD_REQUEST,
    FIRST_ATTEMPT,
    NO_SERVER,
    REQUEST_MAX,
    attempts_text,
    format_line,
    request_text,
    with_reason,
    with_trace,
)
from hermes_lb.observe.json_log import FALSE, NULL, TARGET_MOST, TRUE, Entry, name, text, unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb import config
    from hermes_lb.affinity import CookieAffinity
    from hermes_lb.errors import RequestRefused
    from hermes_lb.proxy.exchange import Exchange
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.ports import Peer


class LineFormat(NamedTuple):
    """A format of the access log; each function returns a line without its end."""

    of_exchange: Callable[[Exchange, float, str], str]  # now, termination (its first two letters)
    of_refusal: Callable[[ClientConnection, float, RequestRefused, int], str]  # now, why, bytes
    captures: bool = False  # it shows what `observe.escaping.capture` finds


def line_format(configured: config.Log) -> LineFormat:
    """The one that `[log] format` asks for."""
    if configured.format == "json":
        return LineFormat(_json_line, _json_refusal, captures=True)
    if configured.format == "combined":
        return LineFormat(_combined_line, _combined_refusal, captures=True)
    if configured.capture_trace:
        return LineFormat(
            partial(_httplog_line, shows_trace=True), partial(_httplog_refusal, shows_trace=True)
        )
    return LineFormat(_httplog_line, _httplog_refusal)


# What the formats share.


def letters(exchange: Exchange, termination: str) -> str:
    """All four: `termination` has two, and the affinity cookies' follow."""
    backend = exchange.backend
    if backend is None or backend.affinity is None:
        return termination + "--"
    if exchange.cookie is None:
        return termination + "N" + exchange.response_letter
    return termination + _cookie_letters(exchange, exchange.cookie, backend.affinity)


def _cookie_letters(exchange: Exchange, cookie: bytes, affinity: CookieAffinity) -> str:
    if exchange.reading is not None and exchange.reading.letter:
        return exchange.reading.letter + exchange.response_letter
    named = affinity.server_for(cookie)
    return request_letter(cookie, named, exchange.server) + exchange.response_letter


def _until_connected(exchange: Exchange, now: float) -> tuple[int, int, int]:
    """HAProxy's TR, Tw and Tc in milliseconds; -1 for a phase that was not reached."""
    connected, waited = exchange.connected_at, exchange.waited()
    tr = int((exchange.head_at - exchange.started_at) * 1000.0)
    tw = int(waited * 1000.0) if waited >= 0.0 else -1
    tc = int((connected - exchange.dispatched_at) * 1000.0) if connected >= 0.0 else -1
    return tr, tw, tc


def _was_redispatched(exchange: Exchange) -> bool:
    """A retry went to another server. Who has taken up a stream was not asked by a retry."""
    stream = exchange.stream
    return bool(exchange.tried) if stream is None else stream.was_redispatched


# httplog


def _httplog_line(
    exchange: Exchange, now: float, termination: str, shows_trace: bool = False
) -> str:
    peer, context, head = exchange.peer, exchange.context, exchange.head
    frontend, backend, server = peer.frontend, exchange.backend, exchange.server
    began, connected, response_at = exchange.started_at, exchange.connected_at, exchange.response_at
    in_backend = in_server = 0
    if backend is None:
        served_by = f"{frontend.name}/{NO_SERVER}"
    else:
        in_backend = backend.pool.in_flight + len(backend.pool.waiting)
        if server is None:
            served_by = f"{backend.name}/{NO_SERVER}"
        else:
            # A server that a reload has removed may have no name there any more.
            served_by = backend.log_names.get(server) or f"{backend.name}/{server.name}"
            in_server = server.in_flight
    return format_line(
        peer.log_name if exchange.client_address is peer.address else _log_name(exchange),
        int((began + context.wall_clock_offset) * 1000.0),
        frontend.name,
        served_by,
        AT_ONCE if connected == began else "{}/{}/{}".format(*_until_connected(exchange, now)),
        int((response_at - connected) * 1000.0) if response_at >= 0.0 else -1,
        int((now - began) * 1000.0),
        exchange.status or -1,
        exchange.bytes_out,
        termination + "--"
        if backend is None or backend.affinity is None
        else letters(exchange, termination),
        len(context.clients),
        frontend.counters.connections,
        in_backend,
        in_server,
        _attempts(exchange, shows_trace)
        if exchange.retries or exchange.queue_position or exchange.reason or shows_trace
        else FIRST_ATTEMPT,
        request_text(head.method, head.target[:REQUEST_MAX], head.minor_version),
    )


def _log_name(exchange: Exchange) -> str:
    """The client that a trusted proxy speaks for; the port is the proxy's (HAProxy `set-src`)."""
    return f"{exchange.client_address}:{exchange.peer.port}"


def _attempts(exchange: Exchange, shows_trace: bool) -> str:
    position, is_pinned = exchange.queue_position, exchange.pinned_to is not None
    attempts = attempts_text(
        exchange.retries,
        is_redispatched=_was_redispatched(exchange),
        server_queue=position if is_pinned else 0,
        backend_queue=0 if is_pinned else position,
    )
    if shows_trace:
        attempts = with_trace(attempts, exchange.head.trace_id)
    return with_reason(attempts, exchange.reason) if exchange.reason else attempts


def _httplog_refusal(
    client: ClientConnection,
    now: float,
    error: RequestRefused,
    size: int,
    shows_trace: bool = False,
) -> str:
    frontend, began = client.peer.frontend, client.received_at
    attempts = with_trace(FIRST_ATTEMPT, b"") if shows_trace else FIRST_ATTEMPT
    return format_line(
        client.peer.log_name,
        int((began + client.context.wall_clock_offset) * 1000.0),
        frontend.name, f"{frontend.name}/{NO_SERVER}",
        "-1/-1/-1", -1, int((now - began) * 1000.0),
        error.status or -1, size, error.termination + "--",
        len(client.context.clients), frontend.counters.connections, 0, 0,
        with_reason(attempts, error.reason), BAD_REQUEST,
    )  # fmt: skip


# combined


def _combined_line(exchange: Exchange, now: float, termination: str) -> str:
    head, captured = exchange.head, exchange.captured
    return combined.format_line(
        exchange.client_address or "-",
        int(exchange.started_at + exchange.context.wall_clock_offset),
        combined.request_text(head.method, head.target, head.minor_version),
        combined.shown_status(exchange.status, termination),
        exchange.bytes_out,
        combined.field_text(captured.referer),
        combined.field_text(captured.user_agent),
    )


def _combined_refusal(
    client: ClientConnection, now: float, error: RequestRefused, size: int
) -> str:
    began = int(client.received_at + client.context.wall_clock_offset)
    status = combined.shown_status(error.status, error.termination)
    return combined.format_line(client.peer.address or "-", began, "-", status, size, "-", "-")


# json


def _json_line(exchange: Exchange, now: float, termination: str) -> str:
    peer, head, captured = exchange.peer, exchange.head, exchange.captured
    backend, server, response_at = exchange.backend, exchange.server, exchange.response_at
    is_at_once = exchange.connected_at == exchange.started_at
    tr, tw, tc = (0, 0, 0) if is_at_once else _until_connected(exchange, now)
    return json_log.format_line(
        Entry(
            time=json_log.date(
                int((exchange.started_at + exchange.context.wall_clock_offset) * 1e3)
            ),
            client=name(exchange.client_address),
            client_port=peer.port,
            frontend=name(peer.frontend.name),
            backend=NULL if backend is None else name(backend.name),
            server=NULL if server is None else name(server.name),
            head_ms=tr,
            queue_ms=NULL if tw < 0 else tw,
            connect_ms=NULL if tc < 0 else tc,
            response_ms=int((response_at - exchange.connected_at) * 1000.0)
            if response_at >= 0.0
            else NULL,
            total_ms=int((now - exchange.started_at) * 1000.0),
            status=exchange.status or NULL,
            bytes_received=exchange.bytes_in,
            bytes_sent=exchange.bytes_out,
            termination=f'"{letters(exchange, termination)}"',
            retries=exchange.retries,
            redispatched=TRUE if _was_redispatched(exchange) else FALSE,
            queued_behind=exchange.queue_position,
            method=text(head.method),
            target=text(head.target, TARGET_MOST),
            version=f'"HTTP/1.{head.minor_version}"',
            host=text(head.host),
            referer=text(captured.referer),
            user_agent=text(captured.user_agent),
            request_id=unique(head.request_id),
            trace_id=unique(head.trace_id),
            tls=_tls(peer),
            reason=name(exchange.reason),
        )
    )


def _json_refusal(client: ClientConnection, now: float, error: RequestRefused, size: int) -> str:
    began = client.received_at
    return json_log.format_line(
        Entry(
            time=json_log.date(int((began + client.context.wall_clock_offset) * 1000.0)),
            client=name(client.peer.address),
            client_port=client.peer.port,
            frontend=name(client.peer.frontend.name),
            backend=NULL, server=NULL,
            head_ms=NULL, queue_ms=NULL, connect_ms=NULL, response_ms=NULL,
            total_ms=int((now - began) * 1000.0),
            status=error.status or NULL,
            bytes_received=0,
            bytes_sent=size,
            termination=f'"{error.termination}--"',
            retries=0, redispatched=FALSE, queued_behind=0,
            method=NULL, target=NULL, version=NULL, host=NULL, referer=NULL, user_agent=NULL,
            request_id=NULL, trace_id=NULL,
            tls=_tls(client.peer),
            reason=name(error.reason),
        )
    )  # fmt: skip


def _tls(peer: Peer) -> str:
    version = peer.tls_version
    return f'"{version}"' if version else NULL
