"""The metrics, read from the data path's integers at a scrape.

The tables below list them all, apart from `process_*` (CPU, memory, descriptors), which are
prometheus-client's own. A name tells the unit, as Prometheus' "Metric and label naming" asks:
`_total` counts events, `_bytes_total` bytes, `_seconds` is a histogram of seconds, and a gauge is
a plain number.

Every balancer has a registry of its own: two can run in one process.
"""

from __future__ import annotations

import asyncio
import platform
from functools import cache
from importlib import metadata
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hermes_lb.observe.httplog import NO_SERVER
from hermes_lb.pool.counters import Histogram
from hermes_lb.pool.server import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hermes_lb.observe.observed import Observed
    from hermes_lb.pool import FrontendCounters, RequestCounters, Server

    Sample = tuple[tuple[str, ...], float | Histogram]  # values of the labels, value

CONTENT_TYPE = CONTENT_TYPE_LATEST

# The `code` label, by index of `RequestCounters.responses`; "none": ended without a status.
STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


class _Metric(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    help: str
    samples: Iterable[Sample]


_SERVER = ("backend", "server")  # server="<NOSRV>": requests that ended without one
_FRONTEND = ("frontend",)


# The tables are functions, not constants: mypy can't defer a lambda at the top level of a module.


# fmt: off
def _of_requests(seen: Observed) -> Iterator[_Metric]:
    yield _Metric(
        "counter", "hermes_lb_requests_total", (*_SERVER, "code"),
        "Requests that ended, by class of their status", _by_code(seen),
    )
    yield _Metric(
        "histogram", "hermes_lb_request_duration_seconds", _SERVER,
        "From the first byte of the request to the last of the response",
        _counted(seen, lambda c: c.latency + c.at_once),
    )
    yield _Metric(
        "histogram", "hermes_lb_time_to_first_byte_seconds", _SERVER,
        "From the first byte of the request to the first of the response",
        _counted(seen, lambda c: c.time_to_first_byte + c.at_once),
    )
    yield _Metric(
        "histogram", "hermes_lb_stream_duration_seconds", _SERVER,
        "How long event streams and tunnels lived", _counted(seen, lambda c: c.stream_length),
    )
    yield _Metric(
        "counter", "hermes_lb_received_bytes_total", _SERVER,
        "Bytes received from clients", _counted(seen, lambda c: c.bytes_in),
    )
    yield _Metric(
        "counter", "hermes_lb_sent_bytes_total", _SERVER,
        "Bytes sent to clients", _counted(seen, lambda c: c.bytes_out),
    )
    yield _Metric(
        "counter", "hermes_lb_retries_total", _SERVER,
        "Attempts after the first of a request", _counted(seen, lambda c: c.retries),
    )
    yield _Metric(
        "counter", "hermes_lb_resumes_total", _SERVER,
        "Streams that a server took over from a lost one", _counted(seen, lambda c: c.resumes),
    )
    yield _Metric(
        "counter", "hermes_lb_connect_errors_total", _SERVER,
        "Failed connections to a server", _counted(seen, lambda c: c.connect_errors),
    )
    yield _Metric(
        "counter", "hermes_lb_aborted_total", (*_SERVER, "by"),
        "Requests cut off before their end, by who did it: client or server", _aborted(seen),
    )


def _of_servers(seen: Observed) -> Iterator[_Metric]:
    yield _Metric(
        "gauge", "hermes_lb_in_flight", _SERVER,
        "Requests and tunnels being served", _servers(seen, lambda s: s.in_flight),
    )
    yield _Metric(
        "gauge", "hermes_lb_queued", _SERVER,
        "Requests waiting for this server, or (<NOSRV>) for any of the backend", _queued(seen),
    )
    yield _Metric(
        "gauge", "hermes_lb_server_up", _SERVER,
        "1 up, 0 down, by the active checks", _servers(seen, lambda s: s.is_up),
    )
    yield _Metric(
        "gauge", "hermes_lb_server_state", (*_SERVER, "state"),
        "1 for the state that the server is in, 0 for the others", _by_state(seen),
    )
    yield _Metric(
        "counter", "hermes_lb_ejections_total", _SERVER,
        "Times that the server was left out for its failures",
        _servers(seen, lambda s: s.ejections),
    )
    yield _Metric(
        "gauge", "hermes_lb_server_fails", _SERVER,
        "Passive failures counted towards max_fails", _servers(seen, lambda s: s.fails),
    )
    yield _Metric(
        "gauge", "hermes_lb_server_weight", _SERVER,
        "Weight, less than the configured one in a slow start", _servers(seen, lambda s: s.weight),
    )


def _of_the_rest(seen: Observed) -> Iterator[_Metric]:
    yield _Metric(
        "gauge", "hermes_lb_connections", _FRONTEND,
        "Open client connections", _frontends(seen, lambda f: f.connections),
    )
    yield _Metric(
        "counter", "hermes_lb_connections_accepted_total", _FRONTEND,
        "Accepted client connections", _frontends(seen, lambda f: f.connections_total),
    )
    yield _Metric(
        "counter", "hermes_lb_frontend_requests_total", _FRONTEND,
        "Requests received", _frontends(seen, lambda f: f.requests),
    )
    yield _Metric(
        "counter", "hermes_lb_refused_total", (*_FRONTEND, "status", "reason"),
        "Requests that were not accepted, by status (0: none was sent) and reason", _refused(seen),
    )
    yield _Metric(
        "counter", "hermes_lb_access_log_dropped_lines_total", (),
        "Lines of the access log lost", [((), seen.access_log.dropped)],
    )
    yield _Metric(
        "histogram", "hermes_lb_loop_lag_seconds", (),
        "How late a timer of the event loop fired: something blocked it for so long",
        [((), seen.loop_lag.histogram)],
    )
    yield _Metric(
        "gauge", "hermes_lb_loop_lag_worst_seconds", (),
        "The latest that one has been since the start", [((), seen.loop_lag.worst)],
    )
    yield _Metric(
        "gauge", "hermes_lb_build_info", ("version", "python"),
        "Always 1", [((_version(), platform.python_version()), 1)],
    )
# fmt: on


def registry_for(observed: Observed) -> CollectorRegistry:
    """A registry of its own for one balancer, for `render`."""
    registry = CollectorRegistry()
    registry.register(_Balancer(observed))
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """A scrape's body: Prometheus' text format, of the content type `CONTENT_TYPE`."""
    return generate_latest(registry)


async def render_in_turns(registry: CollectorRegistry) -> bytes:
    """The same, with a turn of the event loop between two metrics.

    The text of 100 servers' histograms takes tens of milliseconds to build; streams in the same
    loop need not wait for all of it.
    """
    body = bytearray()
    for family in registry.collect():
        body += generate_latest(_Alone(family))
        await asyncio.sleep(0)
    return bytes(body)


class _Alone(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


class _Balancer(Collector):
    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterator[Metric]:
        seen = self._observed
        for metric in chain(_of_requests(seen), _of_servers(seen), _of_the_rest(seen)):
            family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.samples:
                if isinstance(value, Histogram):
                    family.add_metric(labels, *_cumulated(value))
                else:
                    family.add_metric(labels, value)
            yield family


_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _cumulated(histogram: Histogram) -> tuple[list[tuple[str, int]], float]:
    """`[(le, observations up to it), ...]`, the last for +Inf, and the sum of all."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total


def _backends(seen: Observed) -> Iterator[tuple[tuple[str, str], RequestCounters]]:
    for pool in seen.pools.values():
        for server in pool.servers:
            yield (pool.name, server.name), server.counters
        yield (pool.name, NO_SERVER), pool.unserved


def _counted(
    seen: Observed, read: Callable[[RequestCounters], float | Histogram]
) -> Iterator[Sample]:
    return ((labels, read(counters)) for labels, counters in _backends(seen))


def _by_code(seen: Observed) -> Iterator[Sample]:
    for labels, counters in _backends(seen):
        for code, count in zip(STATUS_CLASSES, counters.responses, strict=True):
            yield (*labels, code), count


def _aborted(seen: Observed) -> Iterator[Sample]:
    for labels, counters in _backends(seen):
        yield (*labels, "client"), counters.aborted_by_client
        yield (*labels, "server"), counters.aborted_by_server


def _servers(seen: Observed, read: Callable[[Server], float]) -> Iterator[Sample]:
    for pool in seen.pools.values():
        for server in pool.servers:
            yield (pool.name, server.name), float(read(server))


def _by_state(seen: Observed) -> Iterator[Sample]:
    for pool in seen.pools.values():
        for server in pool.servers:
            for state in STATES:
                yield (pool.name, server.name, state), float(server.state == state)


def _queued(seen: Observed) -> Iterator[Sample]:
    yield from _servers(seen, lambda s: s.queued)
    for pool in seen.pools.values():
        pinned = sum(server.queued for server in pool.servers)
        yield (pool.name, NO_SERVER), len(pool.waiting) - pinned


def _frontends(seen: Observed, read: Callable[[FrontendCounters], int]) -> Iterator[Sample]:
    return (((name,), read(frontend)) for name, frontend in seen.frontends.items())


def _refused(seen: Observed) -> Iterator[Sample]:
    for name, frontend in seen.frontends.items():
        for (status, reason), count in sorted(frontend.refused.items()):
            yield (name, str(status), reason), count


@cache
def _version() -> str:
    try:
        return metadata.version("hermes-lb")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a source tree that was never installed
