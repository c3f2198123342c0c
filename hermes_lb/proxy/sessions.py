"""The requests that run now: seen, and ended, by the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_lb.proxy.context import Context
    from hermes_lb.proxy.exchange import Exchange


def running_sessions(context: Context, process: int) -> list[dict[str, Any]]:
    """A row for each, of plain values (`control.operator.Session`)."""
    now = context.clock()
    return [
        _describe(client.exchange, process, now)
        for client in context.clients
        if client.exchange is not None
    ]


def end_sessions(context: Context, backend: str, server: str) -> int:
    """Cut what runs on a server -> how many. Their clients see it, and the log has a K.

    By its name: it may be gone from its backend, and its requests go on.
    """
    doomed = [
        client.exchange
        for client in context.clients
        if client.exchange is not None and _is_on(client.exchange, backend, server)
    ]
    for exchange in doomed:
        exchange.shut_down()
    return len(doomed)


def _is_on(exchange: Exchange, backend: str, server: str) -> bool:
    return (
        exchange.server is not None
        and exchange.server.name == server
        and exchange.backend is not None
        and exchange.backend.name == backend
    )


def _describe(exchange: Exchange, process: int, now: float) -> dict[str, Any]:
    head, server, backend = exchange.head, exchange.server, exchange.backend
    is_tunnel = exchange.tunnel is not None
    pinned = exchange.pinned_to is not None
    return {
        "process": process,
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
        "pinned_by": None if not pinned else "stick" if exchange.stuck is not None else "cookie",
    }
