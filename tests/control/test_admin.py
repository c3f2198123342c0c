"""The admin listener over real sockets: lifecycle, files, and the form of errors."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from typing import TYPE_CHECKING, Literal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes_lb.backends import Pool
from hermes_lb.backends.server import STATES
from hermes_lb.config import Admin, Backend
from hermes_lb.control import AdminServer
from hermes_lb.control.quiet import QuietLog
from hermes_lb.observe.metrics import CONTENT_TYPE
from tests.support.operator import FakeOperator, admin_listener

if TYPE_CHECKING:
    from pathlib import Path


async def test_healthz_follows_the_balancer_and_not_its_servers() -> None:
    async with admin_listener() as client:
        client.operator.server("agent1").set_up(False, "test")
        assert await client.get("/healthz") == {"status": "ok"}
        client.operator.is_draining = True
        response, _ = await client.ask("/healthz")
        assert response.status == 503
        assert await response.json() == {"status": "draining"}


@pytest.mark.parametrize(
    ("missing", "status", "said"),
    [("none", 200, "ok"), ("some", 200, "degraded"), ("all", 503, "down")],
)
async def test_healthz_tells_of_processes_that_cannot_be_started(
    missing: Literal["none", "some", "all"], status: int, said: str
) -> None:
    async with admin_listener() as client:
        client.operator.missing_processes = missing
        response, _ = await client.ask("/healthz")
        assert response.status == status
        assert await response.json() == {"status": said}


async def test_it_listens_on_sockets_that_are_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as kept:
        admin = AdminServer(Admin.model_validate({"bind": "127.0.0.1:1"}), FakeOperator())
        await admin.start([kept.dup()])
        assert admin.address.port == kept.getsockname()[1]
        await admin.stop()
        with socket.create_connection(kept.getsockname()) as client:  # in the backlog, for the next
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await admin.start([kept.dup()])
            client.setblocking(False)
            answer = await asyncio.get_running_loop().sock_recv(client, 4096)
            assert answer.startswith(b"HTTP/1.1 200")
        await admin.stop()


async def test_sockets_that_are_given_are_closed_if_it_cannot_start(tmp_path: Path) -> None:
    configured = Admin.model_validate({"bind": "127.0.0.1:1", "token_file": str(tmp_path / "no")})
    with socket.create_server(("127.0.0.1", 0)) as kept:
        given = kept.dup()
        with pytest.raises(OSError, match="token_file"):
            await AdminServer(configured, FakeOperator()).start([given])
        assert given.fileno() < 0


async def test_metrics_parse() -> None:
    async with admin_listener() as client:
        client.operator.server("agent1").counters.retries = 42
        response, text = await client.ask("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert [s.value for s in samples if s.name == "hermes_lb_retries_total"] == [42, 0, 0]


async def test_a_scrape_of_many_servers_is_whole_and_its_head_alone_has_no_body() -> None:
    servers = [{"name": f"agent{n}", "address": f"127.0.0.1:{n + 1}"} for n in range(200)]
    pool = Pool("agents", Backend.model_validate({"servers": servers}))
    async with admin_listener(FakeOperator(pool)) as client:
        response, text = await client.ask("/metrics", "HEAD")
        assert (response.status, text) == (200, "")
        response, text = await client.ask("/metrics")
    assert response.headers["Content-Type"] == CONTENT_TYPE
    assert text.count("hermes_lb_server_up{") == 200
    assert text.endswith("\n")


async def test_a_scraper_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    servers = [{"name": f"agent{n}", "address": f"127.0.0.1:{n + 1}"} for n in range(500)]
    pool = Pool("agents", Backend.model_validate({"servers": servers}))
    async with admin_listener(FakeOperator(pool)) as client:
        reader, writer = await asyncio.open_connection(*client.admin.address)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readexactly(100_000)
        writer.transport.abort()
        assert await client.get("/healthz")
    assert caplog.records == []


async def test_the_pages_ask_for_nothing_that_is_not_here() -> None:
    async with admin_listener() as client:
        wanted, seen = {"/", "/api/v1/"}, set()
        while wanted:
            seen.add(path := wanted.pop())
            response, text = await client.ask(path)
            assert response.status == 200, path
            assert not re.search(r"(src|href)=\"(https?:)?//", text)
            found = re.findall(r"(?:src|href)=\"([^\"#]+)\"|from \"\.(/[^\"]+)\"", text)
            wanted |= {page or f"/page{module}" for page, module in found} - seen
    assert {"/page/style.css", "/page/dashboard.js", "/api/v1/openapi.json"} <= seen


SCHEME = re.compile(r":root \{([^}]*)\}")
COLOUR = re.compile(r"--([a-z0-9-]+): (#[0-9a-f]{6});")


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
async def test_text_of_every_colour_can_be_read(scheme: int) -> None:
    async with admin_listener() as client:
        _, style = await client.ask("/page/style.css")
    colours = dict(COLOUR.findall(SCHEME.findall(style)[scheme]))
    inks = ("ink", "quiet", "accent", *STATES)
    pairs = [(ink, on) for ink in inks for on in ("card", "page")]
    for name, on in [*pairs, ("on-accent", "accent")]:
        low, high = sorted(luminance(colours[one]) for one in (name, on))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{name} on {on}"  # WCAG 2.2, 1.4.3


async def test_errors_have_one_form() -> None:
    async with admin_listener() as client:
        response, _ = await client.ask("/nothing/here")
        assert response.status == 404
        assert await response.json() == {"error": {"status": 404, "message": "Not Found"}}
        response, _ = await client.ask("/metrics", "POST", json={})
        assert response.status == 405
        assert await response.json() == {"error": {"status": 405, "message": "Method Not Allowed"}}
        assert response.headers["Allow"] == "GET,HEAD"


async def test_a_bug_is_a_500_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with admin_listener() as client:
        client.operator.server("agent1").counters.responses = []  # of the wrong length
        response, text = await client.ask("/api/v1/servers")
    assert response.status == 500
    assert await response.json() == {"error": {"status": 500, "message": "Internal Server Error"}}
    assert "Traceback" not in text
    messages = [r.getMessage() for r in caplog.records if r.exc_info]
    assert "GET /api/v1/servers failed" in messages


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/api/v1/servers", "/missing"])
async def test_headers_that_keep_browsers_in_bounds(path: str) -> None:
    async with admin_listener() as client:
        response, _ = await client.ask(path)
    headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not any(name.startswith("Access-Control") for name in headers)


async def test_the_address_has_the_real_port() -> None:
    async with admin_listener() as client:
        address = client.admin.address
        assert address.host == "127.0.0.1"
        assert address.port > 0
        assert repr(client.admin) == f"<AdminServer {address}>"
        assert client.admin.url == f"http://{address}"


async def test_ipv6() -> None:
    try:
        async with admin_listener(bind="[::1]:0") as client:
            assert str(client.admin.address).startswith("[::1]:")
            await client.get("/healthz")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_a_port_in_use_is_an_oserror_and_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        admin = AdminServer(Admin.model_validate({"bind": f"127.0.0.1:{port}"}), FakeOperator())
        with pytest.raises(
            OSError,
            match=r"can't listen on 127\.0\.0\.1:\d+ \(\[admin\] bind\): Address already in use",
        ):
            await admin.start()
        await admin.stop()
    assert asyncio.all_tasks() == before
    await admin.start()  # a retry succeeds
    with pytest.raises(RuntimeError, match="started already"):
        await admin.start()
    await admin.stop()


async def test_stop_closes_the_port_idle_connections_and_live_streams() -> None:
    before = asyncio.all_tasks()
    async with admin_listener() as client:
        address = client.admin.address
        await client.get("/healthz")  # the session keeps its connection
        async with client.http.get(client.url + "/api/v1/events") as stream:
            await stream.content.readline()
            await client.admin.stop()
            await stream.read()  # it ends
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert repr(client.admin) == "<AdminServer stopped>"
        await client.admin.stop()
    assert asyncio.all_tasks() == before


async def test_there_is_no_access_log_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with admin_listener() as client:
        await client.ask("/healthz")
        await client.ask("/missing")
    assert not [r for r in caplog.records if r.name.startswith(("aiohttp", "hermes_lb"))]


PUT = (
    b"PUT /api/v1/servers/agents/agent1/state HTTP/1.1\r\n"
    b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /\xfc HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"400"),
        (b"GET http://[::1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: secret\r\n\r\n", b"417"),
        (b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: secret\r\n\r\n", b"417"),
        (PUT + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", b"415"),
        (PUT + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello", b"415"),
        (PUT + b"Content-Length: 50\r\n\r\nhello", b""),
        (PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b""),
    ],
    ids=[
        "target", "authority", "long header", "version", "chunk", "expect", "expect of nothing",
        "gzip", "br", "short", "cut",
    ],
)  # fmt: skip
async def test_what_a_stranger_sends_has_no_traceback(
    caplog: pytest.LogCaptureFixture, sent: bytes, status: bytes
) -> None:
    caplog.set_level(logging.INFO)
    async with admin_listener() as client:
        reader, writer = await asyncio.open_connection(*client.admin.address)
        writer.write(sent)
        if status:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == status
            assert b"\r\nServer: hermes_lb\r\n" in head
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            body = await reader.readexactly(int(length[1]))
            assert json.loads(body)["error"]["status"] == int(status)
        else:
            writer.write_eof()  # leaves in the middle of its body
            assert await reader.read() == b""
        writer.close()
        await client.get("/healthz")
    assert caplog.messages == []


async def test_an_answer_to_what_can_not_be_read_repeats_nothing_of_it() -> None:
    async with admin_listener() as client:
        reader, writer = await asyncio.open_connection(*client.admin.address)
        writer.write(b"secret\x01word / HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"secret" not in answer
    assert b"aiohttp" not in answer
    assert b"X-Content-Type-Options: nosniff" in answer


async def test_a_bug_outside_of_the_handlers_keeps_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = QuietLog(logging.getLogger("hermes_lb.admin"))
    log.exception("Unhandled exception", exc_info=LookupError("a bug"))
    log.exception("Unhandled exception", exc_info=ConnectionResetError())
    [record] = caplog.records
    assert record.exc_info is not None
