"""The requests that run now: seen, and ended, by the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.proxy.abandoned import Detached

if TYPE_CHECKING:
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange


def running_sessions(context: Context, process: int) -> list[dict[str, Any]]:
    """A row for each, of plain values (`control.operator.Session`)."""
    now = context.clock()
    rows = [
        describe(client.exchange, now) for client in context.clients if client.exchange is not None
    ]
    rows += [_describe_detached(detached, now) for detached in _detached(context)]
    return [{"process": process, **row} for row in rows]


def end_sessions(context: Context, backend: str, server: str) -> int:
    """Cut what runs on a server -> how many. Their clients see it, and the log has a K.

    What has no client any more has had its line in the log. By its name: the server may be gone
    from its backend, and its requests go on.
    """
    doomed = [
        client.exchange
        for client in context.clients
        if client.exchange is not None and _is_on(client.exchange, backend, server)
    ]
    left_behind = [
        detached
        for detached in _detached(context)
        if (detached.about["backend"], detached.about["server"]) == (backend, server)
    ]
    for exchange in doomed:
        exchange.shut_down()
    for detached in left_behind:
        detached.cut()
    return len(doomed) + len(left_behind)


def _detached(context: Context) -> list[Detached]:
    """What servers finish for clients that have left."""
    serving = [upstream.exchange for upstream in context.upstreams]
    return [exchange for exchange in serving if isinstance(exchange, Detached)]


def _is_on(exchange: Exchange, backend: str, server: str) -> bool:
    return (
        exchange.server is not None
        and exchange.server.name == server
        and exchange.backend is not None
        and exchange.backend.name == backend
    )


def describe(exchange: Exchange, now: float) -> dict[str, Any]:
    """A row, all but its process."""
    head, server, backend = exchange.head, exchange.server, exchange.backend
    is_tunnel = exchange.tunnel is not None
    pinned = exchange.pinned_to is not None
    return {
        "client": exchange.client.log_name,
        "frontend": exchange.client.frontend.name,
        "backend": backend.name if backend is not None else "",
        "server": server.name if server is not None else None,
        "kind": "tunnel" if is_tunnel else "stream" if exchange.is_stream else "request",
        "phase": exchange.letter,
        "seconds": round(now - exchange.head_at, 3),
        "method": head.method.decode("latin-1"),
        "target": head.target.partition(b"?")[0].decode("latin-1"),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "pinned_by": None
        if not pinned
        else "stick"
        if exchange.session_key is not None
        else "cookie",
    }


def _describe_detached(detached: Detached, now: float) -> dict[str, Any]:
    about = detached.about
    return {
        **about,
        "client": None,
        "kind": "detached",
        "phase": "D" if detached.has_head else "H",
        "seconds": round(about["seconds"] + now - detached.left_at, 3),
    }
