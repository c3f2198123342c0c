"""The admin listener over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes_lb.config.models import Admin, Backend
from hermes_lb.control import AdminServer
from hermes_lb.observe.access_log import AccessLog
from hermes_lb.observe.loop_lag import LoopLag
from hermes_lb.observe.observed import Observed
from hermes_lb.pool import FrontendCounters, Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def watched() -> Observed:
    servers = [
        {"name": "agent1", "address": "127.0.0.1:8001", "weight": 3, "max_connections": 9},
        {"name": "agent2", "address": "[::1]:8002", "backup": True, "max_fails": 1},
    ]
    pool = Pool("agents", Backend.model_validate({"servers": servers}))
    return Observed({"agents": pool}, {"public": FrontendCounters()}, AccessLog("off"), LoopLag())


class Browser:
    """Asks one admin listener."""

    def __init__(self, admin: AdminServer, session: aiohttp.ClientSession) -> None:
        self.admin = admin
        self.session = session
        self.url = f"http://{admin.address}"

    async def ask(
        self, path: str, method: str = "GET", **options: Any
    ) -> tuple[aiohttp.ClientResponse, str]:
        async with self.session.request(method, self.url + path, **options) as response:
            return response, await response.text()


@asynccontextmanager
async def browsing(
    observed: Observed | None = None, bind: str = "127.0.0.1:0", now: float = 0.0
) -> AsyncIterator[Browser]:
    admin = AdminServer(
        Admin.model_validate({"bind": bind}), observed or watched(), clock=lambda: now
    )
    await admin.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Browser(admin, session)
    finally:
        await admin.stop()


async def test_healthz_follows_the_balancer_and_not_its_servers() -> None:
    observed = watched()
    for server in observed.pools["agents"].servers:
        server.set_up(False, "test")
    async with browsing(observed) as browser:
        response, _ = await browser.ask("/healthz")
        assert response.status == 200
        assert await response.json() == {"status": "ok"}
        browser.admin.is_draining = True
        response, _ = await browser.ask("/healthz")
        assert response.status == 503
        assert await response.json() == {"status": "draining"}


async def test_servers() -> None:
    observed = watched()
    pool = observed.pools["agents"]
    first, second = pool.servers
    pool.lease(first, 0.0)
    first.last_check = "200 in 3 ms"
    first.queued = 2
    first.counters.responses[:] = [0, 1, 2, 3, 4, 5]
    first.counters.bytes_in, first.counters.bytes_out = 6, 7
    first.counters.retries, first.counters.connect_errors = 8, 9
    first.counters.aborted_by_client, first.counters.aborted_by_server = 10, 11
    second.set_up(False, "connection refused")
    async with browsing(observed) as browser:
        response, _ = await browser.ask("/api/v1/servers")
        agent1, agent2 = await response.json()
    assert agent1 == {
        "backend": "agents",
        "name": "agent1",
        "address": "127.0.0.1:8001",
        "state": "up",
        "available": True,
        "ejected": None,
        "weight": 3,
        "backup": False,
        "max_connections": 9,
        "in_flight": 1,
        "queued": 2,
        "fails": 0,
        "last_check": "200 in 3 ms",
        "ejections": 0,
        "counters": {
            "responses": {"none": 0, "1xx": 1, "2xx": 2, "3xx": 3, "4xx": 4, "5xx": 5},
            "bytes_in": 6,
            "bytes_out": 7,
            "retries": 8,
            "resumes": 0,
            "connect_errors": 9,
            "aborted_by_client": 10,
            "aborted_by_server": 11,
        },
    }
    assert agent2["address"] == "[::1]:8002"
    assert agent2["backup"] is True
    assert (agent2["state"], agent2["available"]) == ("down", False)
    assert agent2["last_check"] == "connection refused"


async def test_an_ejected_server_says_why_and_for_how_long() -> None:
    observed = watched()
    agent1, agent2 = observed.pools["agents"].servers
    agent1.eject(130.0, "5 failures in a row")
    agent2.set_degraded("timeout after 5s")
    async with browsing(observed, now=100.04) as browser:
        response, _ = await browser.ask("/api/v1/servers")
        first, second = await response.json()
    assert (first["state"], first["available"], first["ejections"]) == ("ejected", False, 1)
    assert first["ejected"] == {"seconds_left": 30.0, "because": "5 failures in a row"}
    assert (second["state"], second["available"], second["ejected"]) == ("degraded", True, None)


@pytest.mark.parametrize(("now", "available"), [(101.0, False), (131.0, True)])
async def test_passive_failures_make_it_unavailable_though_up(now: float, available: bool) -> None:
    observed = watched()
    server = observed.pools["agents"].servers[1]
    server.failed(100.0)
    async with browsing(observed, now=now) as browser:
        response, _ = await browser.ask("/api/v1/servers")
        described = (await response.json())[1]
    assert described["state"] == "up"
    assert described["fails"] == 1
    assert described["available"] is available


async def test_metrics_parse() -> None:
    observed = watched()
    observed.pools["agents"].servers[0].counters.retries = 42
    async with browsing(observed) as browser:
        response, text = await browser.ask("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert [s.value for s in samples if s.name == "hermes_lb_retries_total"] == [42, 0, 0]


async def test_the_index_links_to_pages_that_exist() -> None:
    async with browsing() as browser:
        response, text = await browser.ask("/")
        assert response.content_type == "text/html"
        links = [part.split('"')[0] for part in text.split('href="')[1:]]
        assert len(links) == 3
        for link in links:
            assert (await browser.ask(link))[0].status == 200


async def test_errors_have_one_form() -> None:
    async with browsing() as browser:
        response, _ = await browser.ask("/nothing/here")
        assert response.status == 404
        assert await response.json() == {"error": {"status": 404, "message": "Not Found"}}
        response, _ = await browser.ask("/metrics", "POST")
        assert response.status == 405
        assert await response.json() == {"error": {"status": 405, "message": "Method Not Allowed"}}
        assert response.headers["Allow"] == "GET,HEAD"


async def test_a_bug_is_a_500_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    observed = watched()
    observed.pools["agents"].servers[0].counters.responses = []  # of the wrong length
    async with browsing(observed) as browser:
        response, text = await browser.ask("/api/v1/servers")
    assert response.status == 500
    assert await response.json() == {"error": {"status": 500, "message": "Internal Server Error"}}
    assert "Traceback" not in text
    [record] = [r for r in caplog.records if r.name == "hermes_lb.admin"]
    assert record.getMessage() == "GET /api/v1/servers failed"
    assert record.exc_info


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/api/v1/servers", "/missing"])
async def test_headers_that_keep_browsers_in_bounds(path: str) -> None:
    async with browsing() as browser:
        response, _ = await browser.ask(path)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9900", 200),
        ("127.9.8.7:1", 200),
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("[::1]:9900", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("evil.example", 403),
        ("evil.example:9900", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1:9900", 403),
        ("[2001:db8::1]", 403),
        ("::1", 403),
        ("127.0.0.1@evil.example", 403),
        ("localhost evil", 403),
        ("localhost:9900:1", 403),
        ("", 403),
    ],
)
async def test_foreign_hosts_are_refused(host: str, status: int) -> None:
    async with browsing() as browser:
        for path in ("/healthz", "/metrics") if status == 200 else ("/healthz", "/missing"):
            response, _ = await browser.ask(path, headers={"Host": host})
            assert response.status == status


@pytest.mark.parametrize(
    "head",
    [
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://127.0.0.1/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
    ids=["no host", "two hosts", "absolute form"],
)
async def test_odd_hosts_get_no_metrics(head: bytes) -> None:
    async with browsing() as browser:
        reader, writer = await asyncio.open_connection(*browser.admin.address)
        writer.write(head)
        line = await reader.readline()
        writer.close()
    assert line.split()[1] in (b"400", b"403")


async def test_the_address_has_the_real_port() -> None:
    async with browsing() as browser:
        assert browser.admin.address.host == "127.0.0.1"
        assert browser.admin.address.port > 0
        assert repr(browser.admin) == f"<AdminServer {browser.admin.address}>"


async def test_ipv6() -> None:
    try:
        async with browsing(bind="[::1]:0") as browser:
            assert str(browser.admin.address).startswith("[::1]:")
            assert (await browser.ask("/healthz"))[0].status == 200
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_a_port_in_use_is_an_oserror_and_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        admin = AdminServer(Admin.model_validate({"bind": f"127.0.0.1:{port}"}), watched())
        with pytest.raises(
            OSError,
            match=r"can't listen on 127\.0\.0\.1:\d+ \(\[admin\] bind\): Address already in use",
        ):
            await admin.start()
        await admin.stop()
    assert asyncio.all_tasks() == before
    await admin.start()  # it can be tried again
    with pytest.raises(RuntimeError, match="started already"):
        await admin.start()
    await admin.stop()


async def test_stop_closes_the_port_and_idle_connections() -> None:
    async with browsing() as browser:
        address = browser.admin.address
        await browser.ask("/healthz")  # the session keeps its connection
        await browser.admin.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert repr(browser.admin) == "<AdminServer stopped>"
        await browser.admin.stop()


async def test_there_is_no_access_log_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with browsing() as browser:
        await browser.ask("/healthz")
        await browser.ask("/missing")
    assert not [r for r in caplog.records if r.name.startswith(("aiohttp", "hermes_lb"))]
