"""Checks reach a server as requests do: by TLS, by a Unix socket, with a PROXY header."""

from __future__ import annotations

import asyncio
import datetime
import random
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.health.checker import HealthChecker
from tests.support.certificates import pem, server_context
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hermes_lb.backends import Server


class AtOnce(random.Random):
    """The first check comes at once."""

    def random(self) -> float:
        return 0.0


class Fake:
    """Answers 200; `received` is all bytes up to the end of the first head."""

    def __init__(self) -> None:
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while b"HTTP/1.1\r\n" not in self.received or not self.received.endswith(b"\r\n\r\n"):
                if not (data := await reader.read(1000)):
                    return
                self.received += data
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
        except OSError:
            pass  # it does not like our certificate
        finally:
            writer.close()

    @asynccontextmanager
    async def on_a_port(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=tls)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def on_a_path(self, path: Path) -> AsyncIterator[str]:
        async with await asyncio.start_unix_server(self.serve, path):
            yield f"unix:{path}"


async def verdict(address: str, *, server: dict[str, Any] | None = None, **backend: Any) -> Server:
    """The first one on a server at `address`."""
    configured = Backend.model_validate(
        {
            "health": {"interval": "60s", "timeout": "10s", "fall": 1, "rise": 1},
            "servers": [{"name": "agent1", "address": address, **(server or {})}],
            **backend,
        }
    )
    pool = Pool("agents", configured)
    checker = HealthChecker({"agents": pool}, {"agents": configured}, rng=AtOnce())
    await checker.start()
    try:
        await until(lambda: pool.servers[0].last_check not in ("", "not checked yet"))
    finally:
        await checker.stop()
    return pool.servers[0]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(ca: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    return {"ca": pem(tmp_path, "ca.pem", ca.cert_pem.bytes())}


async def test_a_server_is_checked_over_tls(ca: trustme.CA, trusting: dict[str, Any]) -> None:
    async with Fake().on_a_port(server_context(ca.issue_cert("127.0.0.1"))) as address:
        server = await verdict(address, tls=trusting)
    assert server.last_check.startswith("200 in ")


async def test_an_expired_certificate_takes_a_server_down(
    ca: trustme.CA, trusting: dict[str, Any]
) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    context = server_context(ca.issue_cert("127.0.0.1", not_after=past))
    async with Fake().on_a_port(context) as address:
        server = await verdict(address, tls=trusting)
    assert not server.is_up
    assert server.last_check == "its certificate has expired"


async def test_a_server_that_wants_a_certificate_is_down_in_words(
    ca: trustme.CA, trusting: dict[str, Any]
) -> None:
    context = server_context(ca.issue_cert("127.0.0.1"), ca=ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 refuses behind the handshake
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def refuse() -> None:
            # Not asyncio: a server of its hangs up without the alert.
            connection, _ = listener.accept()
            with connection, pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        refusing = asyncio.get_running_loop().run_in_executor(None, refuse)
        server = await verdict(f"127.0.0.1:{listener.getsockname()[1]}", tls=trusting)
        await refusing
    assert not server.is_up
    assert server.last_check == "it refused TLS: handshake failure"


async def test_a_server_is_checked_at_its_unix_socket(tmp_path: Path) -> None:
    fake = Fake()
    async with fake.on_a_path(tmp_path / "agent.sock") as address:
        server = await verdict(address)
    assert server.last_check.startswith("200 in ")
    assert b"\r\nHost: localhost\r\n" in fake.received


async def test_nobody_at_a_unix_socket_is_down_in_words(tmp_path: Path) -> None:
    server = await verdict(f"unix:{tmp_path}/agent.sock")
    assert server.last_check == "no such file or directory"


async def test_the_host_is_the_name_that_the_server_is_known_by() -> None:
    fake = Fake()
    async with fake.on_a_port() as address:
        await verdict(address, server={"server_name": "agents.internal"})
    port = address.rpartition(":")[2].encode()
    assert b"\r\nHost: agents.internal:" + port + b"\r\n" in fake.received


@pytest.mark.parametrize(
    ("version", "header"),
    [
        ("v1", b"PROXY UNKNOWN\r\n"),
        ("v2", b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"),
    ],
)
async def test_a_check_is_nobody_s_connection(version: str, header: bytes) -> None:
    fake = Fake()
    async with fake.on_a_port() as address:
        server = await verdict(address, proxy_protocol=version)
    assert server.is_up
    assert fake.received.startswith(header + b"GET /health HTTP/1.1\r\n")
