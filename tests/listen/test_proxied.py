"""Listeners that expect a PROXY header: whose connection it is, and what is no header."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import site
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.tls import tls_client
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

pytestmark = pytest.mark.http1_only("a PROXY header comes before either version")

PROXIED = {"bind": {"address": "127.0.0.1:0", "proxy_protocol": True}}
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n"
V2_TCP6 = (
    V2 + b"\x21\x21" + struct.pack("!H", 36)
    + bytes.fromhex("20010db8000000000000000000000007" + "20010db8000000000000000000000001")
    + struct.pack("!HH", 4711, 443)
)  # fmt: skip
CHECK = V2 + b"\x20\x00\x00\x00"


async def proxied(stage: Stage, **options: Any) -> LoadBalancer:
    return await stage.balancer(await stage.serving(), **{"frontend": PROXIED, **options})


@on_both_loops
@pytest.mark.parametrize(
    ("header", "address", "in_log"),
    [
        (V1, "203.0.113.7", "203.0.113.7"),
        (V2_TCP6, "2001:db8::7", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", "203.0.113.7", "203.0.113.7"),
        (CHECK, "127.0.0.1", "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1", "127.0.0.1"),
    ],
    ids=["version 1", "version 2", "mapped", "a check", "unknown"],
)
async def test_the_header_says_who_the_client_is(
    stage: Stage, header: bytes, address: str, in_log: str
) -> None:
    lb, client, origin = await stage.served(frontend=PROXIED)
    await client.send(header + request("GET", "/one") + request("GET", "/two"))
    for _ in range(2):
        assert (await client.read_response()).status == 200
    for message in origin.requests:
        assert message.get("X-Forwarded-For") == message.get("X-Real-IP") == address
    assert {line.address for line in await stage.logged(lb, 2)} == {in_log}


@on_both_loops
@pytest.mark.parametrize("header", [V1, V2_TCP6], ids=["version 1", "version 2"])
async def test_it_may_come_byte_by_byte(stage: Stage, header: bytes) -> None:
    lb = await proxied(stage)
    client = await stage.client(lb)
    await client.send_bytewise(header + request("GET", "/"))
    assert (await client.read_response()).status == 200
    assert (await stage.log_line(lb)).address in ("203.0.113.7", "2001:db8::7")


@on_both_loops
async def test_it_comes_before_tls(stage: Stage, tmp_path: Path) -> None:
    frontend = {
        "bind": {"address": "127.0.0.1:0", "proxy_protocol": True, "tls": True},
        "tls": {"certificate": site(tmp_path, "a.test")},
    }
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend=frontend)
    client = await tls_client(stage, lb, before=V1)
    assert (await client.ask()).status == 200
    [message] = origin.requests
    assert message.get("X-Forwarded-For") == "203.0.113.7"
    assert message.get("X-Forwarded-Proto") == "https"


@on_both_loops
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY header: there is none"),
        (b"\x16\x03\x01\x00", "PROXY header: there is none"),
        (V1.replace(b"4711", b"99999"), "PROXY header: the line has no such port"),
        (V2 + b"\x11\x11\x00\x00", "PROXY header: it has another version or command"),
    ],
)
async def test_a_connection_without_a_header_is_closed_without_a_word(
    stage: Stage, data: bytes, reason: str
) -> None:
    lb = await proxied(stage)
    client = await stage.client(lb)
    await client.send(data)
    assert await client.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.request, line.status, line.termination) == ("<BADREQ>", -1, "PR")
    assert line.reason == reason
    assert line.address == "127.0.0.1"
    [frontend] = lb._plane.frontends
    assert sum(frontend.counters.refused.values()) == 1


@on_both_loops
async def test_it_has_a_deadline(stage: Stage) -> None:
    lb = await proxied(stage, timeouts={"request_head": "50ms"})
    client = await stage.client(lb)
    await client.send(V1[:20])
    assert await client.read_to_end() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.reason) == ("cR", "the PROXY header took too long")


async def test_a_client_that_leaves_within_it_is_reported(stage: Stage) -> None:
    lb = await proxied(stage)
    client = await stage.client(lb)
    await client.send(V1[:20])
    await turns(10)
    client.half_close()
    line = await stage.log_line(lb)
    assert (line.termination, line.reason) == ("CR", "the client left within a PROXY header")


async def test_a_check_that_says_nothing_is_not_logged(stage: Stage) -> None:
    lb = await proxied(stage)
    client = await stage.client(lb)
    client.close()
    client = await stage.client(lb)
    await client.send(CHECK)
    client.close()
    await turns(20)
    await stage.logged(lb, 0)


async def test_where_it_is_not_expected_it_is_no_request(stage: Stage) -> None:
    _, client, _ = await stage.served()
    assert (await client.answer_to(V1 + request("GET", "/"))).status == 400


async def test_limits_are_those_of_the_client_and_not_of_the_proxy(stage: Stage) -> None:
    lb = await proxied(stage, limits={"connections_per_client": 1})
    first, second, other = await stage.clients(lb, 3)
    assert (await first.answer_to(V1 + request("GET", "/"))).status == 200
    assert (await other.answer_to(V2_TCP6 + request("GET", "/"))).status == 200
    assert (await second.answer_to(V1 + request("GET", "/"))).status == 429
    first.close()
    assert await second.read_to_end() == b""


async def test_a_trusted_proxy_may_be_the_one_in_the_header(stage: Stage) -> None:
    _, client, origin = await stage.served(
        frontend={**PROXIED, "trusted_proxies": ["203.0.113.0/24"]}
    )
    await client.answer_to(V1 + request("GET", "/", "X-Forwarded-For: 198.51.100.1"))
    assert origin.requests[0].get("X-Forwarded-For") == "198.51.100.1, 203.0.113.7"
    assert origin.requests[0].get("X-Real-IP") == "198.51.100.1"


HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 20s
    timeout server 20s
listen front
    bind fd@{descriptor}
    server lb {address} {option}
"""


@contextmanager
def haproxy(address: str, option: str, folder: Path) -> Iterator[str]:
    """A real sender of the header before our listener -> the URL where it listens."""
    if shutil.which("haproxy") is None:
        pytest.skip("no haproxy installed")
    config = folder / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        descriptor = sock.fileno()
        config.write_text(HAPROXY.format(descriptor=descriptor, address=address, option=option))
        command = ["haproxy", "-db", "-q", "-f", str(config)]
        process = subprocess.Popen(command, pass_fds=[descriptor], stderr=subprocess.DEVNULL)
        try:
            yield "http://{}:{}".format(*sock.getsockname())
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
async def test_a_real_haproxy_says_who_its_client_is(
    stage: Stage, tmp_path: Path, option: str
) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend=PROXIED)
    with haproxy(lb.url.removeprefix("http://"), option, tmp_path) as url:
        client = await stage.client(url)
        assert (await client.ask()).status == 200
    port = client.sock.getsockname()[1]
    assert (await stage.log_line(lb)).line.startswith(f"127.0.0.1:{port} ")
