"""The PROXY header to servers: by the byte, and by the reading of real receivers."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.backends.dialing import Dialer, Peers, build_v1, build_v2
from hermes_lb.config import Backend
from tests.listen.test_sockets import unix_client
from tests.support.certificates import pem, server_context, site
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.needs import needs_ipv6
from tests.support.tls import accept_tls, tls_client
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.backends.dialing import ServerDialer
    from tests.support.stage import Stage

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def peers(source: str, destination: str) -> Peers:
    return Peers((source, 56_324), (destination, 443))


@pytest.mark.parametrize(
    ("told", "header"),
    [
        # The example of proxy-protocol.txt, section 2.1.
        (peers("192.168.0.1", "192.168.0.11"), b"TCP4 192.168.0.1 192.168.0.11 56324 443"),
        (peers("2001:db8::1", "::1"), b"TCP6 2001:db8::1 ::1 56324 443"),
        (peers("192.0.2.1", "2001:db8::1"), b"TCP6 ::ffff:192.0.2.1 2001:db8::1 56324 443"),
        (peers("fe80::1%eth0", "fe80::2%eth0"), b"TCP6 fe80::1 fe80::2 56324 443"),
        (peers("unix:", ""), b"UNKNOWN"),
        (None, b"UNKNOWN"),
    ],
    ids=["IPv4", "IPv6", "mixed", "zones", "no IP address", "our own"],
)
def test_version_1_is_a_line(told: Peers | None, header: bytes) -> None:
    # Python 3.11 writes a mapped address with hexadecimal digits, 3.13 with dots: both are right.
    line = build_v1(told).replace(b"::ffff:c000:201", b"::ffff:192.0.2.1")
    assert line == b"PROXY " + header + b"\r\n"


@pytest.mark.parametrize(
    ("told", "header"),
    [
        (
            peers("192.0.2.1", "192.0.2.2"),
            b"\x21\x11\x00\x0c" + b"\xc0\x00\x02\x01\xc0\x00\x02\x02" + b"\xdc\x04\x01\xbb",
        ),
        (
            peers("::1", "::2"),
            b"\x21\x21\x00\x24" + b"\0" * 15 + b"\x01" + b"\0" * 15 + b"\x02" + b"\xdc\x04\x01\xbb",
        ),
        (peers("unix:", ""), b"\x21\x00\x00\x00"),
        (None, b"\x20\x00\x00\x00"),
    ],
    ids=["IPv4", "IPv6", "no IP address", "our own"],
)
def test_version_2_is_binary(told: Peers | None, header: bytes) -> None:
    assert build_v2(told) == V2 + header


ENDS = st.tuples(st.ip_addresses().map(str) | st.text(max_size=20), st.integers(0, 65_535))


@given(ENDS, ENDS)
def test_no_address_makes_a_header_that_is_longer_than_it_may_be(
    source: tuple[str, int], destination: tuple[str, int]
) -> None:
    told = Peers(source, destination)
    line, header = build_v1(told), build_v2(told)
    assert len(line) <= 107
    assert line.count(b"\r") == line.count(b"\n") == 1
    assert len(header) == 16 + int.from_bytes(header[14:16], "big") <= 52


# In front of a real server.


@on_both_loops
async def test_the_header_comes_first_and_once(stage: Stage) -> None:
    lb, client, origin = await stage.line(backend={"proxy_protocol": "v1"})
    host, port = client.sock.getsockname()
    here = lb.url.rpartition(":")[2]
    await client.get("/a")
    at_origin = await origin.accept()
    line = await at_origin.read_until(b"\r\n")
    assert line.decode() == f"PROXY TCP4 {host} 127.0.0.1 {port} {here}\r\n"
    assert (await at_origin.read_request()).head.target == "/a"


def dialer(address: str) -> ServerDialer:
    server = {"name": "a", "address": address}
    configured = Backend.model_validate({"servers": [server], "proxy_protocol": "v1"})
    return Dialer.of("agents", configured).to(configured.servers[0])


@on_both_loops
async def test_the_zone_of_an_address_is_heeded() -> None:
    """There is no server, but the kernel says EINVAL only if a link-local address has no zone."""
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which one depends on the machine
        await dialer("[fe80::1%lo]:80").dial(asyncio.get_running_loop(), asyncio.Protocol)
    assert raised.value.errno != errno.EINVAL


@needs_ipv6
@on_both_loops
async def test_a_server_in_a_zone_gets_the_header() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        dialed = await dialer(f"[::1%1]:{port}").dial(loop, Dialed)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"PROXY UNKNOWN\r\n"
        dialed.transport.abort()


@needs_ipv6
@on_both_loops
async def test_a_server_in_a_zone_that_does_not_listen_refuses() -> None:
    with socket.socket(socket.AF_INET6) as bound:
        bound.bind(("::1", 0))
        address = f"[::1%1]:{bound.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            await dialer(address).dial(asyncio.get_running_loop(), asyncio.Protocol)


class Dialed(asyncio.Protocol):
    transport: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


IPV6 = "TCP6 2001:db8::7 2001:db8::1 4711 443"
MAPPED = "TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 4711 443"


def told(family: int, *addresses: str) -> bytes:
    """A header of version 2 from port 4711 to 443."""
    ends = b"".join(ip_address(address).packed for address in addresses)
    ends += (4711).to_bytes(2, "big") + (443).to_bytes(2, "big")
    return V2 + bytes([0x21, family]) + len(ends).to_bytes(2, "big") + ends


@pytest.mark.http1_only("a PROXY header comes before either version")
@on_both_loops
@pytest.mark.parametrize("by_unix", [False, True], ids=["TCP", "Unix"])
@pytest.mark.parametrize(
    ("came", "version", "left"),
    [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "v1", None),
        (f"PROXY {IPV6}\r\n".encode(), "v1", None),
        (f"PROXY {MAPPED}\r\n".encode(), "v1", b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"),
        (told(0x11, "203.0.113.7", "192.0.2.1"), "v2", None),
        (told(0x21, "2001:db8::7", "2001:db8::1"), "v2", None),
        (f"PROXY {IPV6}\r\n".encode(), "v2", told(0x21, "2001:db8::7", "2001:db8::1")),
    ],
    ids=["v1", "v1 of IPv6", "v1 mapped", "v2", "v2 of IPv6", "v1 to v2"],
)
async def test_both_ends_pass_from_one_header_to_the_next(
    stage: Stage, tmp_path: Path, came: bytes, version: str, left: bytes | None, by_unix: bool
) -> None:
    path = tmp_path / "lb.sock"
    bind = {"address": f"unix:{path}" if by_unix else "127.0.0.1:0", "proxy_protocol": True}
    origin = await stage.origin()
    lb = await stage.balancer(
        origin, frontend={"bind": [bind]}, backend={"proxy_protocol": version}
    )
    client = await (unix_client(stage, path) if by_unix else stage.client(lb))
    await client.send(came + request("GET", "/a"))
    connection = await origin.accept()
    expected = left or came
    assert await connection.read_exactly(len(expected)) == expected
    assert (await connection.read_request()).head.target == "/a"


@pytest.mark.http1_only("a PROXY header comes before either version")
async def test_both_ends_pass_from_the_header_before_tls(stage: Stage, tmp_path: Path) -> None:
    frontend = {
        "bind": {"address": "127.0.0.1:0", "proxy_protocol": True, "tls": True},
        "tls": {"certificate": site(tmp_path, "a.test")},
    }
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=frontend, backend={"proxy_protocol": "v1"})
    line = f"PROXY {IPV6}\r\n".encode()
    client = await tls_client(stage, lb, before=line)
    await client.get("/a")
    connection = await origin.accept()
    assert await connection.read_until(b"\r\n") == line
    assert (await connection.read_request()).head.target == "/a"


@pytest.mark.http1_only("a PROXY header comes before either version")
@pytest.mark.parametrize(
    "came",
    [b"PROXY UNKNOWN\r\n", V2 + b"\x20\0\0\0", told(0x12, "203.0.113.7", "192.0.2.1")],
    ids=["unknown", "a check", "UDP"],
)
async def test_a_header_that_tells_no_ends_leaves_the_connection_its_own(
    stage: Stage, came: bytes
) -> None:
    origin = await stage.origin()
    bind = {"address": "127.0.0.1:0", "proxy_protocol": True}
    lb = await stage.balancer(origin, frontend={"bind": bind}, backend={"proxy_protocol": "v1"})
    client = await stage.client(lb)
    await client.send(came + request("GET", "/a"))
    connection = await origin.accept()
    port, here = client.sock.getsockname()[1], lb.url.rpartition(":")[2]
    line = await connection.read_until(b"\r\n")
    assert line.decode() == f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {here}\r\n"


async def test_the_header_comes_before_tls(stage: Stage, tmp_path: Path) -> None:
    ca = trustme.CA()
    tls = {"ca": pem(tmp_path, "ca.pem", ca.cert_pem.bytes())}
    lb, client, origin = await stage.line(backend={"proxy_protocol": "v2", "tls": tls})
    await client.get("/a")
    connection = await origin.accept()
    assert await connection.read_exactly(28) == (
        V2
        + b"\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01"
        + client.sock.getsockname()[1].to_bytes(2, "big")
        + int(lb.url.rpartition(":")[2]).to_bytes(2, "big")
    )
    over_tls = await accept_tls(origin, server_context(ca.issue_cert("127.0.0.1")), connection)
    assert (await over_tls.read_request()).head.target == "/a"


async def test_no_client_gets_a_connection_that_was_announced_as_another_s(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, backend={"proxy_protocol": "v1"})
    for _ in range(2):
        client = await stage.client(lb)
        await client.get()
        at_origin = await origin.accept()
        told = (await at_origin.read_until(b"\r\n")).split()
        assert int(told[4]) == client.sock.getsockname()[1]
        await at_origin.read_request()
        await at_origin.serves(client, b"ok")
        assert await at_origin.read_to_end() == b""  # and it is not kept


HAPROXY = """
defaults
    mode http
    timeout connect 10s
    timeout client 20s
    timeout server 20s
frontend plain
    bind unix@{folder}/plain.sock accept-proxy
    http-request return status 200 content-type text/plain lf-string "{haproxy_says}"
frontend tls
    bind unix@{folder}/tls.sock accept-proxy ssl crt {folder}/server.pem
    http-request return status 200 content-type text/plain lf-string "{haproxy_says}"
"""

NGINX = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    server {{ listen unix:{folder}/plain.sock proxy_protocol; {nginx_says} }}
    server {{
        listen unix:{folder}/tls.sock proxy_protocol ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        {nginx_says}
    }}
}}
"""

SAYS = {
    "haproxy_says": "%[src] %[src_port] %[dst] %[dst_port]",
    "nginx_says": 'return 200 "$proxy_protocol_addr $proxy_protocol_port'
    ' $proxy_protocol_server_addr $proxy_protocol_server_port";',
}

COMMANDS = {
    "haproxy": (HAPROXY, ["haproxy", "-db", "-q", "-f"]),
    "nginx": (NGINX, ["nginx", "-e", "stderr", "-c"]),
}


@contextmanager
def real(name: str, server_pem: bytes) -> Iterator[Path]:
    """A real receiver of the header; it listens at plain.sock and tls.sock in the folder."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name} installed")
    template, command = COMMANDS[name]
    # Not tmp_path: the path of a Unix socket may have no more than about 100 bytes.
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        config = Path(folder) / "config"
        (Path(folder) / "server.pem").write_bytes(server_pem)
        config.write_text(template.format(folder=folder, **SAYS))
        process = subprocess.Popen([*command, str(config)], stderr=subprocess.DEVNULL)
        try:
            yield Path(folder)
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("socket", ["plain", "tls"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("receiver", ["haproxy", "nginx"])
async def test_a_real_receiver_reads_it(
    stage: Stage, tmp_path: Path, receiver: str, version: str, socket: str
) -> None:
    ca = trustme.CA()
    certificate = ca.issue_cert("agents.internal").private_key_and_cert_chain_pem.bytes()
    tls = {
        "ca": pem(tmp_path, "ca.pem", ca.cert_pem.bytes()),
        "server_name": "agents.internal",
    }
    with real(receiver, certificate) as folder:
        path = folder / f"{socket}.sock"
        await eventually(path.is_socket)
        lb = await stage.balancer(
            0,
            server={"address": f"unix:{path}"},
            backend={"proxy_protocol": version, "tls": tls if socket == "tls" else False},
        )
        client = await stage.client(lb)
        answer = await client.ask()
        port, here = client.sock.getsockname()[1], lb.url.rpartition(":")[2]
        assert answer.body.decode() == f"127.0.0.1 {port} 127.0.0.1 {here}"
