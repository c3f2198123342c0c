"""Metrics as Prometheus' own parser reads them."""

from __future__ import annotations

import asyncio
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes_lb.config.models import Backend
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.metrics import CONTENT_TYPE, registry_for, render, render_in_turns
from hermes_lb.observe.observed import Observed
from hermes_lb.pool import FrontendCounters, Lease, Pool, Server

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def a_pool(name: str, *servers: str) -> Pool:
    configured = [{"name": server, "address": "127.0.0.1:8000", "weight": 5} for server in servers]
    return Pool(name, Backend.model_validate({"servers": configured}))


@pytest.fixture
def observed() -> Observed:
    pools = {"agents": a_pool("agents", "agent1", "agent2"), "web": a_pool("web", "web1")}
    return Observed(pools, {"public": FrontendCounters()}, AccessLog("off"), LoopLag())


class Scrape:
    """`scrape("name", label="value")` is the value of that very sample."""

    def __init__(self, observed: Observed) -> None:
        self.families = list(
            text_string_to_metric_families(render(registry_for(observed)).decode())
        )
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
    assert scrape("retries_total", backend="web", server="web1") == 0


def test_requests_without_a_server_are_counted_too(observed: Observed) -> None:
    observed.pools["agents"].unserved.responses[5] = 9
    observed.pools["agents"].unserved.latency.observe(1.0)
    scrape = Scrape(observed)
    assert scrape("requests_total", code="5xx", **NO_SERVER) == 9
    assert scrape("request_duration_seconds_count", **NO_SERVER) == 1


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("request_duration_seconds", "latency"),
        ("time_to_first_byte_seconds", "time_to_first_byte"),
        ("stream_duration_seconds", "stream_length"),
    ],
)
def test_histograms_are_cumulative(observed: Observed, name: str, field: str) -> None:
    histogram = getattr(observed.pools["agents"].servers[0].counters, field)
    seconds = [0.0001, 0.5, 0.5, 5.0, 299.0, 1e6]
    for value in seconds:
        histogram.observe(value)
    scrape = Scrape(observed)
    bounds = [*histogram.bounds, math.inf]
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
        raise AssertionError("nobody makes room in these tests")


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
    states = ("up", "degraded", "ejected", "down")
    agent2 = {"backend": "agents", "server": "agent2"}
    assert [scrape("server_state", state=s, **AGENT1) for s in states] == [0, 0, 1, 0]
    assert [scrape("server_state", state=s, **agent2) for s in states] == [0, 1, 0, 0]
    assert [scrape("server_up", **AGENT1), scrape("server_up", **agent2)] == [1, 1]
    assert [scrape("ejections_total", **AGENT1), scrape("ejections_total", **agent2)] == [1, 0]


def test_frontends_and_the_log(observed: Observed) -> None:
    public = observed.frontends["public"]
    public.connections, public.connections_total, public.requests = 1, 2, 3
    public.refused.update({(400, "no Host field"): 4, (431, "too large"): 5})
    observed.access_log.dropped = 6
    observed.loop_lag.worst = 0.3
    observed.loop_lag.histogram.observe(0.3)
    scrape = Scrape(observed)
    assert scrape("loop_lag_worst_seconds") == 0.3
    assert scrape("loop_lag_seconds_bucket", le="0.25") == 0
    assert scrape("loop_lag_seconds_bucket", le="0.5") == 1
    assert scrape("connections", frontend="public") == 1
    assert scrape("connections_accepted_total", frontend="public") == 2
    assert scrape("frontend_requests_total", frontend="public") == 3
    assert scrape("refused_total", frontend="public", status="400", reason="no Host field") == 4
    assert scrape("refused_total", frontend="public", status="431", reason="too large") == 5
    assert scrape("access_log_dropped_lines_total") == 6


def test_every_metric_has_a_type_and_a_help_and_a_fitting_name(observed: Observed) -> None:
    families = {f.name: f for f in Scrape(observed).families if f.name.startswith("hermes_lb_")}
    assert len(families) == 25
    for name, family in families.items():
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        is_time = family.type == "histogram" or name == "hermes_lb_loop_lag_worst_seconds"
        assert name.endswith("_seconds") == is_time
        suffix = "_total" if family.type == "counter" else ""
        assert {s.name for s in family.samples} <= {
            name + end for end in (suffix, "_bucket", "_count", "_sum")
        }
    assert families["hermes_lb_build_info"].samples[0].value == 1


def test_the_process_itself_is_there(observed: Observed) -> None:
    names = {family.name for family in Scrape(observed).families}
    assert "process_resident_memory_bytes" in names


def test_two_balancers_in_one_process_do_not_mix(observed: Observed) -> None:
    other = Observed({"b": a_pool("b", "s")}, {}, AccessLog("off"), LoopLag())
    other.pools["b"].servers[0].counters.retries = 1
    assert Scrape(other)("retries_total", backend="b", server="s") == 1
    assert not any(("server", "s") in labels for _, labels in Scrape(observed).samples)


async def test_rendered_in_turns_it_is_the_same_and_lets_others_run(observed: Observed) -> None:
    registry = registry_for(observed)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.get_running_loop().create_task(count())
    body = await render_in_turns(registry)
    counting.cancel()
    ours = [line for line in body.splitlines() if b"hermes_lb_" in line]
    assert ours == [line for line in render(registry).splitlines() if b"hermes_lb_" in line]
    assert turns >= 20
    assert CONTENT_TYPE.startswith("text/plain")
