"""Metrics as Prometheus' own parser reads them."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes_lb.backends import FrontendCounters, Lease, Pool, Server
from hermes_lb.backends.counters import LATENCY_BOUNDS
from hermes_lb.backends.server import STATES
from hermes_lb.config import Backend
from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.metric_table import metrics_of
from hermes_lb.observe.metrics import render
from hermes_lb.observe.observed import DiscoveryView, Observed, ProcessView

if TYPE_CHECKING:
    from hermes_lb.errors import NoServer

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def a_pool(name: str, *servers: str) -> Pool:
    configured = [{"name": server, "address": "127.0.0.1:8000", "weight": 5} for server in servers]
    return Pool(name, Backend.model_validate({"servers": configured}))


@pytest.fixture
def observed() -> Observed:
    pools = {"agents": a_pool("agents", "agent1", "agent2"), "web": a_pool("web", "web1")}
    processes = [ProcessView(0, os.getpid()), ProcessView(1, os.getppid())]
    return Observed(pools, {"public": FrontendCounters()}, processes)


def text_of(observed: Observed) -> str:
    return b"".join(render(observed)).decode()


class Scrape:
    """`scrape("name", label="value")` is the value of that very sample."""

    def __init__(self, observed: Observed) -> None:
        self.families = list(text_string_to_metric_families(text_of(observed)))
        self.samples: Samples = {}
        for family in self.families:
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, "the same sample twice"
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples["hermes_lb_" + name, frozenset(labels.items())]


AGENT1 = {"backend": "agents", "server": "agent1"}
NO_SERVER = {"backend": "agents", "server": "<NOSRV>"}


def test_counters_of_a_server(observed: Observed) -> None:
    counters = observed.pools["agents"].servers[0].counters
    counters.responses[:] = [7, 1, 2, 3, 4, 5]
    counters.bytes_in, counters.bytes_out = 10, 20
    counters.retries, counters.connect_errors = 30, 40
    counters.aborted_by_client, counters.aborted_by_server = 50, 60
    counters.http2_resets, counters.http2_goaways = 70, 80
    scrape = Scrape(observed)
    for code, count in [("none", 7), ("1xx", 1), ("2xx", 2), ("3xx", 3), ("4xx", 4), ("5xx", 5)]:
        assert scrape("requests_total", code=code, **AGENT1) == count
        assert scrape("requests_total", code=code, backend="agents", server="agent2") == 0
    assert scrape("received_bytes_total", **AGENT1) == 10
    assert scrape("sent_bytes_total", **AGENT1) == 20
    assert scrape("retries_total", **AGENT1) == 30
    assert scrape("connect_errors_total", **AGENT1) == 40
    assert scrape("aborted_total", by="client", **AGENT1) == 50
    assert scrape("aborted_total", by="server", **AGENT1) == 60
    assert scrape("http2_server_resets_total", **AGENT1) == 70
    assert scrape("http2_server_goaways_total", **AGENT1) == 80
    assert scrape("retries_total", backend="web", server="web1") == 0


def test_requests_without_a_server_are_counted_too(observed: Observed) -> None:
    observed.pools["agents"].unserved.responses[5] = 9
    observed.pools["agents"].unserved.latency.observe(1.0)
    observed.pools["agents"].unserved.waiting.observe(1.0)
    observed.pools["agents"].unserved.late = 1
    scrape = Scrape(observed)
    assert scrape("requests_total", code="5xx", **NO_SERVER) == 9
    assert scrape("request_duration_seconds_count", **NO_SERVER) == 1
    assert scrape("queue_duration_seconds_count", **NO_SERVER) == 1


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("request_duration_seconds", "latency"),
        ("request_duration_seconds", "at_once"),
        ("time_to_first_byte_seconds", "time_to_first_byte"),
        ("stream_duration_seconds", "stream_length"),
        ("connect_duration_seconds", "dial"),
    ],
)
def test_histograms_are_cumulative(observed: Observed, name: str, field: str) -> None:
    histogram = getattr(observed.pools["agents"].servers[0].counters, field)
    seconds = [0.0001, 0.5, 0.5, 31.0, 3601.0, 1e6]
    for value in seconds:
        histogram.observe(value)
    scrape = Scrape(observed)
    of_requests = name in ("request_duration_seconds", "time_to_first_byte_seconds")
    bounds = [*(LATENCY_BOUNDS if of_requests else histogram.bounds), math.inf]
    assert bounds[-2] == 7200, "2 h"
    shown = f"hermes_lb_{name}_bucket"
    of_server = {("backend", "agents"), ("server", "agent1")}
    assert sum(n == shown and of_server < labels for n, labels in scrape.samples) == len(bounds)
    texts = ["+Inf" if math.isinf(bound) else str(bound) for bound in bounds]
    for bound, text in zip(bounds, texts, strict=True):
        expected = sum(value <= bound for value in seconds)
        assert scrape(f"{name}_bucket", le=text, **AGENT1) == expected
    assert scrape(f"{name}_count", **AGENT1) == 6
    assert scrape(f"{name}_sum", **AGENT1) == pytest.approx(sum(seconds))


class Waiting:
    def __init__(self, pinned_to: Server | None) -> None:
        self.pinned_to = pinned_to
        self.tried: list[Server] = []

    def lease_granted(self, lease: Lease) -> None:
        raise AssertionError("no lease is released in these tests")

    def server_lost(self, now: float) -> Server | None:
        raise AssertionError("no server is lost in these tests")

    def fail(self, error: NoServer) -> None:
        raise error


def test_gauges_of_servers(observed: Observed) -> None:
    pool = observed.pools["agents"]
    first, second = pool.servers
    for _ in range(3):
        pool.lease(first, 0.0)
    second.failed(0.0)
    second.set_up(False, "test")
    for pinned_to in (first, None, None):
        pool.wait(Waiting(pinned_to))
    scrape = Scrape(observed)
    agent2 = {"backend": "agents", "server": "agent2"}
    assert [scrape("in_flight", **AGENT1), scrape("in_flight", **agent2)] == [3, 0]
    assert [scrape("server_up", **AGENT1), scrape("server_up", **agent2)] == [1, 0]
    assert [scrape("server_fails", **AGENT1), scrape("server_fails", **agent2)] == [0, 1]
    assert scrape("server_weight", **AGENT1) == 5
    assert scrape("queued", **AGENT1) == 1
    assert scrape("queued", **NO_SERVER) == 2
    assert scrape("queued", backend="web", server="<NOSRV>") == 0


def test_the_state_of_a_server_and_its_ejections(observed: Observed) -> None:
    first, second = observed.pools["agents"].servers
    first.eject(30.0, "5 failures in a row")
    second.set_degraded("timeout after 5s")
    scrape = Scrape(observed)
    agent2 = {"backend": "agents", "server": "agent2"}
    assert [s for s in STATES if scrape("server_state", state=s, **AGENT1)] == ["ejected"]
    assert [s for s in STATES if scrape("server_state", state=s, **agent2)] == ["degraded"]
    assert [scrape("server_up", **AGENT1), scrape("server_up", **agent2)] == [0, 1]
    assert [scrape("ejections_total", **AGENT1), scrape("ejections_total", **agent2)] == [1, 0]


def test_a_server_whose_requests_fail_is_not_up(observed: Observed) -> None:
    first, second = observed.pools["agents"].servers
    for _ in range(3):
        first.failed(0.0, "connection refused")
    second.set_admin("drain")
    only = observed.pools["web"].servers[0]
    for _ in range(3):
        only.failed(0.0, "connection refused")
    scrape = Scrape(observed)
    failing = {"backend": "web", "server": "web1"}
    assert scrape("server_up", **AGENT1) == scrape("server_up", **failing) == 0
    assert scrape("server_up", backend="agents", server="agent2") == 1
    assert scrape("server_state", state="failing", **AGENT1) == 1
    assert scrape("server_state", state="failing", **failing) == 1


def test_frontends(observed: Observed) -> None:
    public = observed.frontends["public"]
    public.connections, public.connections_total, public.requests = 1, 2, 3
    public.refused.update({(400, "no Host field"): 4, (431, "too large"): 5})
    public.tls_failures = 6
    scrape = Scrape(observed)
    assert scrape("connections", frontend="public") == 1
    assert scrape("connections_accepted_total", frontend="public") == 2
    assert scrape("frontend_requests_total", frontend="public") == 3
    assert scrape("refused_total", frontend="public", status="400", reason="no Host field") == 4
    assert scrape("refused_total", frontend="public", status="431", reason="too large") == 5
    assert scrape("tls_handshake_failures_total", frontend="public") == 6


def test_each_process_has_its_own_series(observed: Observed) -> None:
    first, second = observed.processes
    first.access_log_dropped, first.clients, second.clients = 6, 7, 8
    second.is_draining = True
    first.loop_lag.worst = 0.3
    first.loop_lag.histogram.observe(0.3)
    first.look()
    scrape = Scrape(observed)
    assert scrape("loop_lag_worst_seconds", process="0") == 0.3
    assert scrape("loop_lag_seconds_bucket", process="0", le="0.25") == 0
    assert scrape("loop_lag_seconds_bucket", process="0", le="0.5") == 1
    assert scrape("loop_lag_seconds_count", process="1") == 0
    assert not any(("process", "supervisor") in labels for _, labels in scrape.samples)
    assert scrape("access_log_dropped_lines_total", process="0") == 6
    assert [scrape("process_connections", process=n) for n in "01"] == [7, 8]
    assert [scrape("process_draining", process=n) for n in "01"] == [0, 1]
    assert scrape("process_open_fds", process="0") == first.open_files > 0
    assert scrape("process_max_fds", process="0") == first.max_files > 0
    assert scrape("process_resident_memory_bytes", process="0") == first.usage.resident_bytes


def test_reloads_restarts_and_failed_look_ups(observed: Observed) -> None:
    upkeep = observed.upkeep
    loaded_at = upkeep.loaded_at
    upkeep.failed_to_reload()
    upkeep.process_restarts = 2
    upkeep.discoveries = lambda: [DiscoveryView("agents", "resolve", 2, 1, 0.0)]
    scrape = Scrape(observed)
    assert scrape("config_reloads_total", result="failure") == 1
    assert scrape("config_last_reload_successful") == 0
    assert scrape("config_last_reload_success_timestamp_seconds") == loaded_at
    assert scrape("process_restarts_total") == 2
    assert scrape("dns_failures_total", backend="agents") == 1
    assert scrape("dns_failures_total", backend="web") == 0
    upkeep.reloaded()
    scrape = Scrape(observed)
    assert scrape("config_reloads_total", result="success") == 1
    assert scrape("config_last_reload_successful") == 1
    assert scrape("config_last_reload_success_timestamp_seconds") == upkeep.loaded_at >= loaded_at


def test_a_scrape_asks_for_current_numbers() -> None:
    process = ProcessView(0, os.getpid())

    def refresh() -> None:
        process.clients = 5

    assert Scrape(Observed({}, {}, [process], refresh=refresh))("process_connections", process="0")


def test_the_loop_of_a_supervisor_is_one_more(observed: Observed) -> None:
    lag = LoopLag()
    lag.worst = 0.7
    lag.histogram.observe(0.7)
    scrape = Scrape(replace(observed, supervisor_lag=lag))
    assert scrape("loop_lag_worst_seconds", process="supervisor") == 0.7
    assert scrape("loop_lag_seconds_bucket", process="supervisor", le="0.5") == 0
    assert scrape("loop_lag_seconds_count", process="supervisor") == 1
    assert scrape("loop_lag_seconds_count", process="0") == 0


def test_every_metric_has_a_type_and_a_help_and_a_fitting_name(observed: Observed) -> None:
    families = {f.name: f for f in Scrape(observed).families}
    for name, family in families.items():
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        if family.type == "histogram":
            assert name.endswith("_seconds")
        suffix = "_total" if family.type == "counter" else ""
        assert {s.name for s in family.samples} <= {
            name + end for end in (suffix, "_bucket", "_count", "_sum")
        }
    assert families["hermes_lb_build_info"].samples[0].value == 1


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_of(observed: Observed) -> None:
    observed.frontends["public"].refuse(400, 'a field with a \x01, a "quote" and a \nnew line')
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text_of(observed).encode(),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def documented() -> dict[str, tuple[str, set[str]]]:
    """What docs/metrics.md says: the type and the labels of each metric."""
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows), "one is listed twice"
    return {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}


def test_the_documentation_lists_exactly_these_metrics(observed: Observed) -> None:
    exposed = {row.name: (row.kind, set(row.labels)) for row in metrics_of(observed)}
    assert documented() == exposed


def test_the_documentation_says_what_bounds_each_label(observed: Observed) -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    bounded = set(re.findall(r"^\| `(\w+)=` \|", text, re.MULTILINE))
    assert bounded == {label for row in metrics_of(observed) for label in row.labels} | {"le"}


def test_the_process_itself_is_there(observed: Observed) -> None:
    names = {family.name for family in Scrape(observed).families}
    assert "process_resident_memory_bytes" in names


def test_two_balancers_in_one_process_do_not_mix(observed: Observed) -> None:
    other = Observed({"b": a_pool("b", "s")}, {})
    other.pools["b"].servers[0].counters.retries = 1
    assert Scrape(other)("retries_total", backend="b", server="s") == 1
    assert not any(("server", "s") in labels for _, labels in Scrape(observed).samples)


def test_a_scrape_of_many_servers_comes_in_parts_of_some_size() -> None:
    servers = [f"agent{number}" for number in range(300)]
    parts = list(render(Observed({"agents": a_pool("agents", *servers)}, {})))
    assert len(parts) > 30
    assert max(map(len, parts)) < 100_000
    for part in parts:
        assert part.endswith(b"\n")


def test_servers_may_leave_between_two_parts() -> None:
    pools = {name: a_pool(name, *(f"s{n}" for n in range(200))) for name in ("a", "b")}
    body = b""
    for part in render(Observed(pools, {})):
        body += part
        pools.pop("b", None)
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    first, last = (families[f"hermes_lb_{name}"] for name in ("received_bytes", "server_weight"))
    assert {sample.labels["backend"] for sample in first.samples} == {"a", "b"}
    assert {sample.labels["backend"] for sample in last.samples} == {"a"}


def test_what_is_in_a_label_stays_in_it() -> None:
    frontend = FrontendCounters()
    odd = 'back\\slash, "quote" and\nnew line \u00e9'
    frontend.refuse(400, odd)
    (sample,) = (
        sample
        for family in Scrape(Observed({}, {"public": frontend})).families
        if family.name == "hermes_lb_refused"
        for sample in family.samples
    )
    assert sample.labels["reason"] == odd
