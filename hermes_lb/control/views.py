"""The admin listener's answers, as plain values of `control.shapes`.

Times are Unix seconds, durations seconds. `now` is the data path's clock.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, cast

from hermes_lb.backends.counters import FrontendCounters
from hermes_lb.backends.histogram import quantiles
from hermes_lb.control.history import available, reason
from hermes_lb.observe.metric_table import resumes_of, version
from hermes_lb.observe.termination import PHASE, WHO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends import Pool, Server
    from hermes_lb.config import Frontend
    from hermes_lb.control import shapes
    from hermes_lb.control.history import History, Key
    from hermes_lb.control.operator import Operator
    from hermes_lb.observe.observed import Observed, ProcessView
    from hermes_lb.observe.recent import Abort


def describe_status(operator: Operator, history: History | None = None) -> shapes.Status:
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
                **_since_cleared(history, (f"frontend {name}", None), counters.shown()),
                "refused": sum(counters.refused.values()),
                "routes": routes.get(name, []),  # none: it is no longer configured
            }
            for name, counters in observed.frontends.items()
        ],
        "certificates": [
            {
                "frontend": one.frontend,
                "file": one.file,
                "names": list(one.names),
                "not_after": one.not_after,
            }
            for one in observed.certificates()
        ],
        "backends": describe_backends(observed, now, history),
    }


def _since_cleared(history: History | None, key: Key, shown: dict[str, Any]) -> dict[str, Any]:
    return shown if history is None else history.tallies.since_cleared(key, shown)


def counters_of(observed: Observed) -> dict[Key, dict[str, Any]]:
    """All counters of now, by the keys that they are cleared under; no gauges."""
    found: dict[Key, dict[str, Any]] = {}
    gauges = {row.slot for row in FrontendCounters.ROWS if row.kind == "gauge"}
    for name, frontend in observed.frontends.items():
        shown = frontend.shown()
        found[f"frontend {name}", None] = {k: v for k, v in shown.items() if k not in gauges}
    for name, pool in observed.pools.items():
        found[name, None] = pool.unserved.shown()
        found |= {(name, server.name): server.counters.shown() for server in pool.servers}
    return found


def _describe_routes(frontend: Frontend) -> list[shapes.Route]:
    """In the order in which they are compared; the default backend is the last one."""
    found: list[shapes.Route] = [
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
        default: shapes.Route = {
            "conditions": "*",
            "backend": frontend.default_backend,
            "rules": "",
            "turns": False,
            "resume": False,
        }
        found.append(default)
    return found


def _describe_process(process: ProcessView) -> shapes.Process:
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


def describe_backends(
    observed: Observed, now: float, history: History | None = None
) -> list[shapes.Backend]:
    """One object per backend, in configuration order, with the sum of its servers' counters."""
    return [
        {
            "name": pool.name,
            "servers": len(pool.servers),
            "available": available(pool, now),
            "in_flight": pool.in_flight,
            "queued": pool.queue_length,
            "resumes": resumes_of(pool),
            "unserved": _since_cleared(history, (pool.name, None), pool.unserved.shown()),
            "tally": history.tallies.of((pool.name, None)) if history else None,
        }
        for pool in observed.pools.values()
    ]


def describe_servers(
    observed: Observed, now: float, history: History | None = None
) -> list[shapes.Server]:
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
) -> shapes.Server:
    key = pool.name, server.name
    drain = history.drains.get(key) if history else None
    return {
        "backend": pool.name,
        "name": server.name,
        "address": str(server.config.address),
        "source": server.config.source,
        "state": server.state,
        "admin": server.admin,
        "because": reason(server),
        "available": server.may_serve(now),
        "ejected": _ejection(server, now),
        "drain": {"since": drain.since, "at_start": drain.at_start} if drain else None,
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
        "counters": _since_cleared(history, key, server.counters.shown()),
        "tally": history.tallies.of(key) if history else None,
    }


def _ejection(server: Server, now: float) -> shapes.Ejection | None:
    if not server.is_ejected:
        return None
    left = max(0.0, server.ejected_until - now)
    return {"seconds_left": round(left, 1), "because": server.ejected_because}


def describe_moment(operator: Operator, history: History, wall: float) -> shapes.Moment:
    """What the dashboard shows each second: status, and the last samples; without the servers,
    which are `sampled_servers`."""
    latest = history.spans["5m"].latest
    status = describe_status(operator, history)
    sampled: dict[str, Any] = {
        **status,
        "backends": [
            {**backend, "sample": latest((backend["name"], None))} for backend in status["backends"]
        ],
    }
    return {
        "time": wall,
        "sampled_at": history.spans["5m"].wall,
        "status": cast("shapes.SampledStatus", sampled),
        "servers": [],
        "gone": [],
        "is_whole": True,
        "last_change": history.changes[-1].number if history.changes else 0,
        "last_abort": operator.recent.last,
    }


def sampled_servers(operator: Operator, history: History) -> Iterator[shapes.SampledServer]:
    """All servers with their last samples. Servers may be added and removed while it is read."""
    latest = history.spans["5m"].latest
    for pool in list(operator.observed.pools.values()):
        for server in list(pool.servers):
            sample: Any = latest((pool.name, server.name))
            yield {**describe_server(pool, server, operator.now(), history), "sample": sample}


def describe_abort(abort: Abort) -> shapes.Abort:
    """An entry of `recent`, with its termination code in words."""
    who, phase = abort["termination"][:2]
    means = f"{WHO.get(who, who)}; waited for {PHASE.get(phase, phase)}"
    return cast("shapes.Abort", {**abort, "means": means})


def describe_refusals(observed: Observed) -> list[shapes.Refusal]:
    """Why requests were refused, the most frequent reason first; and what servers failed by."""
    found: list[shapes.Refusal] = [
        {"where": f"frontend {name}", "status": status, "count": count, "because": because}
        for name, counters in observed.frontends.items()
        for (status, because), count in counters.refused.items()
    ]
    for pool in observed.pools.values():
        for server in pool.servers:
            counted = server.counters
            count = counted.connect_errors + counted.aborted_by_server
            if count or server.fails:
                found.append(
                    {
                        "where": f"{pool.name}/{server.name}",
                        "status": None,
                        "count": max(count, server.fails),
                        "because": server.failed_because or "connections failed, or were cut",
                    }
                )
    return sorted(found, key=lambda row: -row["count"])
