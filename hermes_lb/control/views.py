"""The admin listener's answers, as plain values. Their schemas: `control.schemas`.

Times are Unix seconds, durations seconds. `now` is the data path's clock.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from hermes_lb.backends.histogram import quantiles
from hermes_lb.config.resolved import source_of
from hermes_lb.control.history import available, reason
from hermes_lb.observe.metric_table import resumes_of, version
from hermes_lb.observe.termination import PHASE, WHO

if TYPE_CHECKING:
    from hermes_lb.backends import Pool, Server
    from hermes_lb.config import Frontend
    from hermes_lb.control.history import History
    from hermes_lb.control.operator import Operator
    from hermes_lb.observe.observed import Observed, ProcessView
    from hermes_lb.observe.recent import Abort


def describe_status(operator: Operator) -> dict[str, Any]:
    """The balancer as a whole, and each backend in a line."""
    observed, now = operator.observed, operator.now()
    upkeep = observed.upkeep
    routes = {one.name: _describe_routes(one) for one in operator.config.frontends}
    return {
        "version": version(),
        "python": platform.python_version(),
        "is_draining": operator.is_draining,
        "started_at": upkeep.started_at,
        "loaded_at": upkeep.loaded_at,
        "reloads": upkeep.reloads,
        "failed_reloads": upkeep.failed_reloads,
        "process_restarts": upkeep.process_restarts,
        "processes": [_describe_process(process) for process in observed.processes],
        "frontends": [
            {
                "name": name,
                **counters.shown(),
                "refused": sum(counters.refused.values()),
                "routes": routes.get(name, []),  # none: it is no longer configured
            }
            for name, counters in observed.frontends.items()
        ],
        "certificates": [one._asdict() for one in observed.certificates()],
        "backends": describe_backends(observed, now),
    }


def _describe_routes(frontend: Frontend) -> list[dict[str, Any]]:
    """In the order in which they are compared; the default backend is the last one."""
    found = [
        {
            "conditions": route.conditions,
            "backend": route.leads_to,
            "rules": route.rules,
            "turns": route.turns is not None,
            "resume": route.resume,
        }
        for route in frontend.routes
    ]
    if frontend.default_backend is not None:
        default = {"conditions": "*", "backend": frontend.default_backend, "rules": ""}
        found.append({**default, "turns": False, "resume": False})
    return found


def _describe_process(process: ProcessView) -> dict[str, Any]:
    lag = process.loop_lag
    p99 = 0.0
    if any(lag.histogram.counts):
        [p99] = quantiles(lag.histogram.bounds, lag.histogram.counts, (0.99,))
        p99 = min(p99, lag.worst)
    return {
        "number": process.number,
        "pid": process.pid,
        "started_at": process.started_at,
        "is_draining": process.is_draining,
        "connections": process.clients,
        "open_files": process.open_files,
        "max_files": process.max_files,
        "log_lines_dropped": process.access_log_dropped,
        "loop_lag_p99": p99,
        "loop_lag_worst": lag.worst,
    }


def describe_backends(observed: Observed, now: float) -> list[dict[str, Any]]:
    """One object per backend, in configuration order, with the sum of its servers' counters."""
    return [
        {
            "name": pool.name,
            "servers": len(pool.servers),
            "available": available(pool, now),
            "in_flight": pool.in_flight,
            "queued": pool.queue_length,
            "resumes": resumes_of(pool),
            "unserved": pool.unserved.shown(),
        }
        for pool in observed.pools.values()
    ]


def describe_servers(
    observed: Observed, now: float, history: History | None = None
) -> list[dict[str, Any]]:
    """One object per server, in configuration order. `counters` only grow.

    For `state` see `hermes_lb.backends.server`. `available` is also false while passive failures
    keep the server out.
    """
    return [
        describe_server(pool, server, now, history)
        for pool in observed.pools.values()
        for server in pool.servers
    ]


def describe_server(
    pool: Pool, server: Server, now: float, history: History | None = None
) -> dict[str, Any]:
    drain = history.drains.get((pool.name, server.name)) if history else None
    return {
        "backend": pool.name,
        "name": server.name,
        "address": str(server.config.address),
        "source": source_of(server.config),
        "state": server.state,
        "admin": server.admin,
        "because": reason(server),
        "available": server.may_serve(now),
        "ejected": _ejection(server, now),
        "drain": drain and {"since": drain.since, "at_start": drain.at_start},
        "weight": server.full_weight if server.warmth == 1.0 else round(server.weight, 3),
        "full_weight": server.full_weight,
        "configured_weight": server.config.weight,
        "backup": server.config.backup,
        "max_connections": server.max_connections,
        "in_flight": server.in_flight,
        "queued": server.queued,
        "fails": server.fails,
        "checked": server.is_checked,
        "last_check": server.last_check,
        "ejections": server.ejections,
        "counters": server.counters.shown(),
    }


def _ejection(server: Server, now: float) -> dict[str, Any] | None:
    if not server.is_ejected:
        return None
    left = max(0.0, server.ejected_until - now)
    return {"seconds_left": round(left, 1), "because": server.ejected_because}


def describe_moment(operator: Operator, history: History, wall: float) -> dict[str, Any]:
    """What the dashboard shows each second: status, and the last samples."""
    observed, now = operator.observed, operator.now()
    latest = history.spans["5m"].latest
    servers = describe_servers(observed, now, history)
    for server in servers:
        del server["counters"]
        server["sample"] = latest((server["backend"], server["name"]))
    status = describe_status(operator)
    for backend in status["backends"]:
        del backend["unserved"]
        backend["sample"] = latest((backend["name"], None))
    return {
        "time": wall,
        "sampled_at": history.spans["5m"].wall,
        "status": status,
        "servers": servers,
        "last_change": history.changes[-1].number if history.changes else 0,
        "last_abort": operator.recent.last,
    }


def describe_abort(abort: Abort) -> dict[str, Any]:
    """An entry of `recent`, with its termination code in words."""
    who, phase = abort["termination"][:2]
    means = f"{WHO.get(who, who)}; waited for {PHASE.get(phase, phase)}"
    return {**abort, "means": means}
