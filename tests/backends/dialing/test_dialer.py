"""Files for TLS that are no good, host names with several addresses, and what is kept."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import trustme

from hermes_lb.backends.dialing import Dialer, in_words
from hermes_lb.backends.dialing.tls import tls_in_words
from hermes_lb.config import Backend, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SERVER = {"name": "agent1", "address": "agents.internal:8443"}


def problem(tls: dict[str, Any]) -> str:
    configured = Backend.model_validate({"servers": [SERVER], "tls": tls})
    with pytest.raises(ConfigError) as caught:
        Dialer.of("agents", configured)
    (found,) = caught.value.problems
    return f"{found.key}: {found.message}"


def test_a_file_that_is_not_there_is_named() -> None:
    assert problem({"ca": "/nowhere/ca.pem"}) == (
        'backends.agents.tls.ca: "/nowhere/ca.pem" can\'t be read: No such file or directory'
    )
    assert "/nowhere/lb.pem" in problem({"certificate": "/nowhere/lb.pem"})


def test_a_file_with_something_else_in_it_is_said_to(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("not a certificate")
    assert "does not hold certificates in PEM form" in problem({"ca": str(other)})
    assert "a certificate and its key" in problem({"certificate": str(other)})


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    ours = trustme.CA().issue_cert("lb.internal")
    key = form.load_pem_private_key(ours.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
    )
    path = tmp_path / "lb.pem"
    path.write_bytes(locked + ours.cert_chain_pems[0].bytes())
    assert "has a passphrase" in problem({"certificate": str(path)})


def test_files_are_read_again_when_they_have_changed(tmp_path: Path) -> None:
    def written(cert: trustme.LeafCert) -> str:
        path = tmp_path / "lb.pem"
        path.write_bytes(cert.private_key_and_cert_chain_pem.bytes())
        return str(path)

    ca = trustme.CA()
    tls = {"certificate": written(ca.issue_cert("lb.internal")), "verify": False}
    configured = Backend.model_validate({"servers": [SERVER], "tls": tls})
    before = Dialer.of("agents", configured)
    assert Dialer.of("agents", configured, before) is before
    assert Dialer.of("agents", configured.model_copy(update={"tls": None}), before) is not before
    written(ca.issue_cert("another.internal", "with.more.names.internal"))
    assert Dialer.of("agents", configured, before) is not before


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.1:8000", "10.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000"),
        ("[fe80::1%eth0]:8000", "[fe80::1]:8000"),
        ("pods.internal.:8000", "pods.internal:8000"),
        ("unix:/run/agent.sock", "localhost"),
    ],
)
def test_a_server_has_a_host_for_checks(address: str, host: str) -> None:
    configured = Backend.model_validate({"servers": [{"name": "a", "address": address}]})
    assert Dialer.of("agents", configured).to(configured.servers[0]).host == host


@contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """A listener whose backlog is full: connections to it never come about."""
    with ExitStack() as opened:
        opened.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(4):
            filler = opened.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect((host, port))
        yield


async def test_of_two_addresses_the_one_that_answers_is_taken() -> None:
    """A name has an unreachable address: the other one is not kept waiting."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        black_hole("127.0.0.2", port := listener.getsockname()[1]),
    ):
        configured = Backend.model_validate(
            {"servers": [{"name": "a", "address": f"two.internal:{port}"}]}
        )
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in ("127.0.0.2", "127.0.0.1")
        ]
        loop = asyncio.get_running_loop()

        with patch.object(socket, "getaddrinfo", lambda *_, **__: found):
            dialed = Dialer.of("agents", configured).to(configured.servers[0])
            protocol = await dialed.dial(loop, Recorder)
        assert protocol.transport.get_extra_info("peername") == ("127.0.0.1", port)
        protocol.transport.abort()
        await protocol.ended.wait()


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()


def test_errors_that_say_nothing_get_words() -> None:
    assert in_words(ConnectionResetError()) == "closed within the TLS handshake"
    assert in_words(socket.gaierror(-2, "Name or service not known")) == "Name or service not known"
    refused = ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)")
    assert in_words(refused) == "Connection refused"
    unknown = ssl.SSLError(1, "[SSL: SOMETHING] something")
    assert tls_in_words(unknown).startswith("TLS failed: ")
