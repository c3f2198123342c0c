"""What the admin listener shows, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.observe.metrics import STATUS_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.pool import Pool, RequestCounters, Server

INDEX = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>hermes_lb</title>
<style>body { font: 1rem/1.6 system-ui, sans-serif; margin: 2rem }</style>
<h1>hermes_lb</h1>
<ul>
<li><a href="/api/v1/servers">/api/v1/servers</a>: every server, its state and its counters (JSON)
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/healthz">/healthz</a>: 200 while running, 503 while draining
</ul>
</html>
"""


def describe_servers(pools: Iterable[Pool], now: float) -> list[dict[str, Any]]:
    """One object a server, in the order of the configuration; `now` is the data path's clock.

    `state` is up, degraded, ejected or down (`hermes_lb.pool.server`); `available` is false too
    while passive failures keep the server out. `counters` only grow.
    """
    return [_describe(pool, server, now) for pool in pools for server in pool.servers]


def _describe(pool: Pool, server: Server, now: float) -> dict[str, Any]:
    return {
        "backend": pool.name,
        "name": server.name,
        "address": str(server.config.address),
        "state": server.state,
        "available": server.may_serve(now),
        "ejected": _ejection(server, now),
        "weight": server.weight,
        "backup": server.config.backup,
        "max_connections": server.max_connections,
        "in_flight": server.in_flight,
        "queued": server.queued,
        "fails": server.fails,
        "last_check": server.last_check,
        "ejections": server.ejections,
        "counters": _counters(server.counters),
    }


def _ejection(server: Server, now: float) -> dict[str, Any] | None:
    if not server.is_ejected:
        return None
    left = max(0.0, server.ejected_until - now)
    return {"seconds_left": round(left, 1), "because": server.ejected_because}


def _counters(counters: RequestCounters) -> dict[str, Any]:
    return {
        "responses": dict(zip(STATUS_CLASSES, counters.responses, strict=True)),
        "bytes_in": counters.bytes_in,
        "bytes_out": counters.bytes_out,
        "retries": counters.retries,
        "resumes": counters.resumes,
        "connect_errors": counters.connect_errors,
        "aborted_by_client": counters.aborted_by_client,
        "aborted_by_server": counters.aborted_by_server,
    }
