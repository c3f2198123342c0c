"""Every refusal is a line of the access log with its reason, and the same in the metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.hostile import echo
from tests.support.http_peer import request

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"

# What arrives, each on a connection of its own, and the status.
REFUSED = [
    (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    (POST + b"Content-Length: +5\r\n\r\n", 400),
    (POST + b"Content-Length: -5\r\n\r\n", 400),
    (POST + b"Expect: magic\r\n\r\n", 417),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"GET /#{evil} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 1100), 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 2048, 431),
    (POST + b"Content-Length: 1000\r\n\r\n", 413),
    (b"\x16\x03\x01", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
]  # fmt: skip


async def refused_by_the_metrics(stage: Stage, lb: LoadBalancer) -> Counter[tuple[int, str]]:
    """(status, reason) -> how many."""
    assert lb.admin_url is not None
    scraper = await stage.client(lb.admin_url)
    host = lb.admin_url.removeprefix("http://")
    await scraper.send(request("GET", "/metrics", f"Host: {host}", "Connection: close"))
    text = (await scraper.read_response()).body.decode()
    found: Counter[tuple[int, str]] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "hermes_lb_refused_total":
                assert sample.labels["frontend"] == "public"
                key = (int(sample.labels["status"]), sample.labels["reason"])
                found[key] = int(sample.value)
    return found


@pytest.mark.http1_only("what HTTP/1.1 alone can say is refused")
async def test_the_log_and_the_metrics_tell_the_same(stage: Stage) -> None:
    origin = await stage.serving(echo)
    limits = {"head_size": 2048, "target_size": 1024, "body_size": 100}
    lb = await stage.balancer(origin, limits=limits, admin={"bind": "127.0.0.1:0"})
    for n, (wire, status) in enumerate(REFUSED, 1):
        client = await stage.client(lb)
        assert (await client.answer_to(wire)).status == status
        await stage.logged(lb, n)  # so that the lines are in this order
    client = await stage.client(lb)
    assert (await client.ask("/served")).status == 200
    lines = (await stage.logged(lb, len(REFUSED) + 1))[:-1]
    assert [line.status for line in lines] == [status for _, status in REFUSED]
    assert all(line.reason for line in lines)
    by_the_log = Counter((line.status, line.reason) for line in lines)
    assert await refused_by_the_metrics(stage, lb) == by_the_log
    assert len(by_the_log) > len(REFUSED) // 2  # they are distinguished
    assert len(origin.requests) == 1


@pytest.mark.http1_only("what HTTP/1.1 alone can say is refused")
async def test_no_strangers_words_are_labels_of_a_metric(stage: Stage) -> None:
    """Each would be a time series for ever: any client could fill the memory of Prometheus."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, admin={"bind": "127.0.0.1:0"})
    for n in range(20):
        for wire in (
            b"GET /%d# HTTP/1.1\r\nHost: a\r\n\r\n" % n,
            b"GET / HTTP/1.1\r\nHost: %d/\r\n\r\n" % n,
            POST + b"Content-Length: +%d\r\n\r\n" % n,
            POST + b"Transfer-Encoding: x%d\r\n\r\n" % n,
            b"XX%d / HTTP/1.1\r\nHost: a\r\n\r\n" % n,
            POST + b"Transfer-Encoding: chunked\r\n\r\n+%d\r\n" % n,
        ):
            client = await stage.client(lb)
            assert (await client.answer_to(wire)).status in (400, 501)
            client.close()
    refused = await refused_by_the_metrics(stage, lb)
    assert refused.total() == 120
    assert len(refused) <= 6
