"""Every metric: its name, its labels, what it says, and where its numbers are.

What the data path counts is in the table of statistics (`hermes_lb.backends.counters`), and its
metrics follow from that. Here are those of states, processes and the whole.

A name tells the unit, as Prometheus' "Metric and label naming" asks: `_total` counts events,
`_bytes_total` bytes, `_seconds` is a histogram of seconds, and a gauge is a plain number.
docs/metrics.md has the same list for operators, and says what bounds each label; a test holds the
two together.
"""

from __future__ import annotations

import os
import platform
from functools import cache, partial
from importlib import metadata
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from hermes_lb.backends.counters import (
    LATENCY_BOUNDS,
    RESUME_OUTCOMES,
    TURN_OUTCOMES,
    FrontendCounters,
    RequestCounters,
)
from hermes_lb.backends.server import IN_SERVICE, STATES
from hermes_lb.observe.httplog import NO_SERVER
from hermes_lb.observe.usage import usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from hermes_lb.backends import Histogram, Pool, Server
    from hermes_lb.backends.statistics import Counters, Statistic
    from hermes_lb.observe.loop_lag import LoopLag
    from hermes_lb.observe.observed import Observed, ProcessView

    Sample = tuple[tuple[str, ...], float | Histogram]  # values of the labels, value


class MetricRow(NamedTuple):
    """One metric with all its samples.

    They are read one by one, and others may run in between: servers, frontends and processes that
    come or go meanwhile do no harm.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    help: str
    samples: Iterable[Sample]


_SERVER = ("backend", "server")  # server="<NOSRV>": requests that ended without one
_BACKEND = ("backend",)
_FRONTEND = ("frontend",)
_PROCESS = ("process",)


def metrics_of(seen: Observed) -> Iterator[MetricRow]:
    """All of one balancer, in the order of the exposition; the numbers are read as it is run."""
    return chain(
        _of_requests(seen), _of_phases(seen), _of_servers(seen), _of_frontends(seen),
        _of_certificates(seen), _of_processes(seen), _of_the_whole(seen), _of_this_process(),
    )  # fmt: skip


# The tables are functions, not constants: mypy can't defer a lambda at the top level of a module.


# fmt: off
def _of_requests(seen: Observed) -> Iterator[MetricRow]:
    yield from _counted(RequestCounters, _SERVER, partial(_backends, seen))
    yield MetricRow(
        "counter", "hermes_lb_stream_resumes_total", (*_BACKEND, "outcome"),
        "Streams of events whose server was lost, by what became of them", _resumes(seen),
    )
    yield MetricRow(
        "counter", "hermes_lb_turns_total", (*_BACKEND, "outcome"),
        "Turns, and requests that followed one, by what became of them", _turns(seen),
    )
    yield MetricRow(
        "counter", "hermes_lb_strategy_failures_total", _BACKEND,
        "Mistakes of a strategy of one's own, whose requests went by round robin",
        (((pool.name,), pool.unserved.strategy_failures) for pool in list(seen.pools.values())),
    )


def _of_phases(seen: Observed) -> Iterator[MetricRow]:
    """Those that several rows of the table make up."""
    yield MetricRow(
        "histogram", "hermes_lb_request_duration_seconds", _SERVER,
        "From the first byte of the request to the last of the response",
        _made_up(seen, lambda c: c.duration.coarse(LATENCY_BOUNDS)),
    )
    yield MetricRow(
        "histogram", "hermes_lb_time_to_first_byte_seconds", _SERVER,
        "From the first byte of the request to the first of the response",
        _made_up(seen, lambda c: c.first_byte.coarse(LATENCY_BOUNDS)),
    )
    yield MetricRow(
        "histogram", "hermes_lb_queue_duration_seconds", _SERVER,
        "From the request head to a server: waiting in the queue and between retries",
        _made_up(seen, lambda c: c.queue_wait),
    )
    yield MetricRow(
        "histogram", "hermes_lb_response_head_duration_seconds", _SERVER,
        "From the connection to the server to the first byte of its response",
        _made_up(seen, lambda c: c.response_head),
    )


def _of_servers(seen: Observed) -> Iterator[MetricRow]:
    yield MetricRow(
        "gauge", "hermes_lb_in_flight", _SERVER,
        "Requests and tunnels being served", _servers(seen, lambda s: s.in_flight),
    )
    yield MetricRow(
        "gauge", "hermes_lb_queued", _SERVER,
        "Requests waiting for this server, or (<NOSRV>) for any of the backend", _queued(seen),
    )
    yield MetricRow(
        "gauge", "hermes_lb_server_up", _SERVER,
        "1 in the states up, degraded and drain, 0 in the others",
        _servers(seen, lambda s: s.state in IN_SERVICE),
    )
    yield MetricRow(
        "gauge", "hermes_lb_server_state", (*_SERVER, "state"),
        "1 for the state that the server is in, 0 for the others", _by_state(seen),
    )
    yield MetricRow(
        "gauge", "hermes_lb_server_checked", _SERVER,
        "1 once an active check has had a result; before, up is only an assumption",
        _servers(seen, lambda s: s.is_checked),
    )
    yield MetricRow(
        "counter", "hermes_lb_ejections_total", _SERVER,
        "Times that the server was left out for its failures",
        _servers(seen, lambda s: s.ejections),
    )
    yield MetricRow(
        "gauge", "hermes_lb_server_fails", _SERVER,
        "Passive failures counted towards max_fails", _servers(seen, lambda s: s.fails),
    )
    yield MetricRow(
        "gauge", "hermes_lb_server_weight", _SERVER,
        "Weight, less than the configured one in a slow start", _servers(seen, lambda s: s.weight),
    )
    yield MetricRow(
        "gauge", "hermes_lb_server_max_connections", _SERVER,
        "Requests that it may have in flight, 0 without a limit",
        _servers(seen, lambda s: s.max_connections),
    )
    failures = seen.upkeep.dns_failures
    yield MetricRow(
        "counter", "hermes_lb_dns_failures_total", _BACKEND,
        "Look-ups of servers' host names that failed",
        (((name,), failures.get(name, 0)) for name in list(seen.pools)),
    )
    found, labels = seen.upkeep.discoveries(), (*_BACKEND, "source")
    yield MetricRow(
        "gauge", "hermes_lb_discovery_servers", labels,
        "Servers that the backend's discovery has found",
        (((one.backend, one.kind), one.servers) for one in found),
    )
    yield MetricRow(
        "counter", "hermes_lb_discovery_failures_total", labels,
        "How often its source could not be read",
        (((one.backend, one.kind), one.failures) for one in found),
    )
    yield MetricRow(
        "gauge", "hermes_lb_discovery_last_success_timestamp_seconds", labels,
        "When its source was last read, since 1970; 0: never",
        (((one.backend, one.kind), one.last_success) for one in found),
    )


def _of_frontends(seen: Observed) -> Iterator[MetricRow]:
    yield from _counted(FrontendCounters, _FRONTEND, partial(_frontends, seen))
    yield MetricRow(
        "counter", "hermes_lb_refused_total", (*_FRONTEND, "status", "reason"),
        "Requests that were not accepted, by status (0: none was sent) and reason", _refused(seen),
    )


def _of_certificates(seen: Observed) -> Iterator[MetricRow]:
    yield MetricRow(
        "gauge", "hermes_lb_certificate_not_after_timestamp_seconds", (*_FRONTEND, "file", "name"),
        "When a certificate in use expires, since 1970",
        (((c.frontend, c.file, c.names[0] if c.names else ""), c.not_after)
         for c in seen.certificates()),
    )


def _of_processes(seen: Observed) -> Iterator[MetricRow]:
    yield MetricRow(
        "gauge", "hermes_lb_process_connections", _PROCESS,
        "Open client connections of a process of the data path",
        _processes(seen, lambda p: p.clients),
    )
    yield MetricRow(
        "gauge", "hermes_lb_process_draining", _PROCESS,
        "1 if it only finishes what it has, else 0", _processes(seen, lambda p: p.is_draining),
    )
    yield MetricRow(
        "gauge", "hermes_lb_process_start_time_seconds", _PROCESS,
        "When it started, since 1970", _processes(seen, lambda p: p.started_at),
    )
    yield MetricRow(
        "counter", "hermes_lb_process_cpu_seconds_total", _PROCESS,
        "Its CPU time, user and system", _processes(seen, lambda p: p.usage.cpu_seconds),
    )
    yield MetricRow(
        "gauge", "hermes_lb_process_resident_memory_bytes", _PROCESS,
        "Its resident memory", _processes(seen, lambda p: p.usage.resident_bytes),
    )
    yield MetricRow(
        "gauge", "hermes_lb_process_open_fds", _PROCESS,
        "Its open file descriptors", _processes(seen, lambda p: p.open_files),
    )
    yield MetricRow(
        "gauge", "hermes_lb_process_max_fds", _PROCESS,
        "Its limit of open file descriptors", _processes(seen, lambda p: p.max_files),
    )
    yield MetricRow(
        "histogram", "hermes_lb_loop_lag_seconds", _PROCESS,
        "How late a timer of the event loop fired: the time for which something blocked it",
        _loops(seen, lambda lag: lag.histogram),
    )
    yield MetricRow(
        "gauge", "hermes_lb_loop_lag_worst_seconds", _PROCESS,
        "The latest that one has been since the start",
        _loops(seen, lambda lag: lag.worst),
    )
    yield MetricRow(
        "counter", "hermes_lb_access_log_dropped_lines_total", _PROCESS,
        "Lines of the access log lost", _processes(seen, lambda p: p.access_log_dropped),
    )


def _of_the_whole(seen: Observed) -> Iterator[MetricRow]:
    upkeep = seen.upkeep
    yield MetricRow(
        "counter", "hermes_lb_process_restarts_total", (),
        "Processes of the data path that ended unexpectedly and were replaced",
        [((), upkeep.process_restarts)],
    )
    yield MetricRow(
        "counter", "hermes_lb_config_reloads_total", ("result",),
        "Reloads of the configuration, by result: success or failure",
        [(("success",), upkeep.reloads), (("failure",), upkeep.failed_reloads)],
    )
    yield MetricRow(
        "gauge", "hermes_lb_config_last_reload_successful", (),
        "0 if the last reload was refused and the old configuration goes on, else 1",
        [((), not upkeep.has_failed_to_reload)],
    )
    yield MetricRow(
        "gauge", "hermes_lb_config_last_reload_success_timestamp_seconds", (),
        "When the configuration in use was loaded, since 1970", [((), upkeep.loaded_at)],
    )
    yield MetricRow(
        "gauge", "hermes_lb_start_time_seconds", (),
        "When the balancer started, since 1970", [((), upkeep.started_at)],
    )
    yield MetricRow(
        "gauge", "hermes_lb_build_info", ("version", "python"),
        "Always 1", [((version(), platform.python_version()), 1)],
    )


def _of_this_process() -> Iterator[MetricRow]:
    """What all exporters tell of the process that answers: here, the one with the admin listener.

    prometheus-client has these too, and lists all descriptors to count them.
    """
    usage = usage_of(os.getpid())
    if usage is None:
        return
    yield MetricRow(
        "counter", "process_cpu_seconds_total", (), "CPU time, user and system",
        [((), usage.cpu_seconds)],
    )
    for name, explained, value in (
        ("open_fds", "Open file descriptors", usage.open_files),
        ("max_fds", "Limit of open file descriptors", usage.max_files),
        ("resident_memory_bytes", "Resident memory", usage.resident_bytes),
        ("virtual_memory_bytes", "Virtual memory", usage.virtual_bytes),
        ("start_time_seconds", "Start of the process, since 1970", usage.started_at),
    ):
        yield MetricRow("gauge", f"process_{name}", (), explained, [((), value)])
# fmt: on


def _backends(seen: Observed) -> Iterator[tuple[tuple[str, str], RequestCounters]]:
    for pool in list(seen.pools.values()):
        for server in pool.servers:
            yield (pool.name, server.name), server.counters
        yield (pool.name, NO_SERVER), pool.unserved


def _counted(
    table: type[Counters],
    labels: tuple[str, ...],
    records: Callable[[], Iterator[tuple[tuple[str, ...], Counters]]],
) -> Iterator[MetricRow]:
    """The metrics of a table of statistics, of records with these labels."""
    for name, rows in groupby(table.ROWS, attrgetter("metric")):
        if name:
            group = tuple(rows)
            row = group[0]
            all_labels = (*labels, row.label) if row.label else labels
            yield MetricRow(row.kind, name, all_labels, row.help, _samples(group, records()))


def _samples(
    rows: Sequence[Statistic], records: Iterator[tuple[tuple[str, ...], Counters]]
) -> Iterator[Sample]:
    for labels, counters in records:
        for row in rows:
            for values, value in row.samples(counters):
                yield (*labels, *values), value


def _made_up(seen: Observed, read: Callable[[RequestCounters], Histogram]) -> Iterator[Sample]:
    return ((labels, read(counters)) for labels, counters in _backends(seen))


def _resumes(seen: Observed) -> Iterator[Sample]:
    for pool in list(seen.pools.values()):
        for outcome, count in resumes_of(pool).items():
            yield (pool.name, outcome), count


def _turns(seen: Observed) -> Iterator[Sample]:
    for pool in list(seen.pools.values()):
        rows = [pool.unserved.turn_outcomes, *(s.counters.turn_outcomes for s in pool.servers)]
        for outcome, counts in zip(TURN_OUTCOMES, zip(*rows, strict=True), strict=True):
            yield (pool.name, outcome), sum(counts)


def resumes_of(pool: Pool) -> dict[str, int]:
    """Streams whose server was lost, by each of `RESUME_OUTCOMES`."""
    rows = [pool.unserved.resume_outcomes, *(s.counters.resume_outcomes for s in pool.servers)]
    return dict(zip(RESUME_OUTCOMES, map(sum, zip(*rows, strict=True)), strict=True))


def _servers(seen: Observed, read: Callable[[Server], float]) -> Iterator[Sample]:
    for pool in list(seen.pools.values()):
        for server in pool.servers:
            yield (pool.name, server.name), float(read(server))


def _by_state(seen: Observed) -> Iterator[Sample]:
    for pool in list(seen.pools.values()):
        for server in pool.servers:
            for state in STATES:
                yield (pool.name, server.name, state), float(server.state == state)


def _queued(seen: Observed) -> Iterator[Sample]:
    yield from _servers(seen, lambda s: s.queued)
    for pool in list(seen.pools.values()):
        pinned = sum(server.queued for server in pool.servers)
        yield (pool.name, NO_SERVER), pool.queue_length - pinned


def _frontends(seen: Observed) -> Iterator[tuple[tuple[str], FrontendCounters]]:
    return (((name,), frontend) for name, frontend in list(seen.frontends.items()))


def _processes(
    seen: Observed, read: Callable[[ProcessView], float | Histogram]
) -> Iterator[Sample]:
    return (((str(process.number),), read(process)) for process in list(seen.processes))


def _loops(seen: Observed, read: Callable[[LoopLag], float | Histogram]) -> Iterator[Sample]:
    yield from _processes(seen, lambda process: read(process.loop_lag))
    if seen.supervisor_lag is not None:
        yield ("supervisor",), read(seen.supervisor_lag)


def _refused(seen: Observed) -> Iterator[Sample]:
    for name, frontend in list(seen.frontends.items()):
        for (status, reason), count in sorted(frontend.refused.items()):
            yield (name, str(status), reason), count


@cache
def version() -> str:
    """Of this package, as it is installed."""
    try:
        return metadata.version("hermes-lb")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed
