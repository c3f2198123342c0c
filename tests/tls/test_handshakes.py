"""TLS to clients: handshakes that come to nothing, and bytes that are no TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.testing import eventually
from tests.support.balancer_process import reserved_port, run
from tests.support.certificates import trusting
from tests.support.http_peer import Client, request
from tests.support.loops import on_both_loops
from tests.support.tls import TlsClient, bare_client, refused, serving, tls_client, with_tls
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.stage import Stage


@on_both_loops
async def test_plain_http_gets_an_answer_that_says_so(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    client = await bare_client(stage, lb)
    response = await client.ask("/private")
    assert (response.status, response.get("Connection")) == (400, "close")
    assert b"this port speaks TLS: use https://" in response.body
    assert await client.read_to_end() == b""
    assert (await refused(stage, lb)).status == 400


@on_both_loops
@pytest.mark.parametrize("noise", [b"\x80\x2e\x01\x00\x02", b"\x00", b"\x16\x02\x00"])
async def test_noise_is_closed_without_a_word(stage: Stage, certificate: str, noise: bytes) -> None:
    lb = await serving(stage, certificate)
    client = await bare_client(stage, lb)
    await client.send(noise)
    assert await client.read_until_cut() == b""
    line = await refused(stage, lb)
    assert (line.status, line.termination) == (-1, "PR")
    assert line.reason == "TLS: what came is neither TLS nor HTTP"


@on_both_loops
async def test_a_broken_handshake_gets_an_alert(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    client = await bare_client(stage, lb)
    await client.send(b"\x16\x03\x01\x00\x09\x01\x00\x00\x05hello")
    alert = await client.read_until_cut()
    assert alert[:1] == b"\x15"
    assert (await refused(stage, lb)).reason == "TLS: the handshake failed"


async def test_an_old_version_is_refused(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate, min_version="1.3")
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol[ _]version"):
        await tls_client(stage, lb, context=context)
    assert (await refused(stage, lb)).reason == "TLS: the client's version is too old"


@on_both_loops
async def test_a_handshake_has_a_deadline(stage: Stage, certificate: str) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(
        origin, frontend=with_tls(certificate), timeouts={"request_head": "50ms"}
    )
    client = await bare_client(stage, lb)
    await client.send(b"\x16\x03\x01\x02")
    assert await client.read_until_cut() == b""
    line = await refused(stage, lb)
    assert (line.termination, line.reason) == ("cR", "the TLS handshake took too long")
    [frontend] = lb._plane.frontends
    await eventually(lambda: frontend.counters.tls_failures == 1)


async def test_who_says_nothing_is_closed_and_not_logged(stage: Stage, certificate: str) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(
        origin, frontend=with_tls(certificate), timeouts={"request_head": "50ms"}
    )
    client = await bare_client(stage, lb)
    assert await client.read_to_end() == b""
    await lb.stop()  # so that the log is whole
    await stage.logged(lb, 0)


async def test_who_is_in_a_handshake_counts_for_its_address(stage: Stage, certificate: str) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(
        origin, frontend=with_tls(certificate), limits={"connections_per_client": 1}
    )
    await bare_client(stage, lb)
    second = await bare_client(stage, lb)
    assert await second.read_until_cut() == b""
    assert (await refused(stage, lb)).reason == "too many connections from this address"


@on_both_loops
async def test_damaged_handshakes_leave_nothing_behind(stage: Stage, certificate: str) -> None:
    """Every byte of a hello gets a turn; what is logged as a warning or is left fails the stage."""
    lb = await serving(stage, certificate, strict_sni=True)
    probe = TlsClient((await bare_client(stage, lb)).sock, trusting(), "a.test")
    with pytest.raises(ssl.SSLWantReadError):
        probe.tls.do_handshake()
    hello = probe.outgoing.read()
    random = Random(20261125)
    for position in range(0, len(hello), 3):
        damaged = bytearray(hello)
        damaged[position] ^= random.randrange(1, 256)
        client = await bare_client(stage, lb)
        await client.send(bytes(damaged) + random.randbytes(random.randrange(200)))
        client.half_close()
        await client.read_until_cut()
    context = lb._context
    await eventually(lambda: len(context.live.clients) == 1)  # the probe


@on_both_loops
async def test_damaged_records_leave_nothing_behind(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    random = Random(20261125)
    for _ in range(30):
        client = await tls_client(stage, lb)
        client.tls.write(request("GET", "/"))
        damaged = bytearray(client.outgoing.read())
        damaged[random.randrange(len(damaged))] ^= random.randrange(1, 256)
        await client.wire.send(damaged)
        client.half_close()
        await client.wire.read_until_cut()
    [frontend] = lb._plane.frontends
    assert frontend.counters.requests == 0


# How those that came to nothing are counted, and what the log says.


async def no_common_cipher(client: Client) -> None:
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the certificate has another key
    with pytest.raises(ssl.SSLError):
        await TlsClient(client.sock, context, "a.test").shake_hands()


async def no_common_protocol(client: Client) -> None:
    context = trusting()
    context.set_alpn_protocols(["h3"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no[ _]application[ _]protocol"):
        await TlsClient(client.sock, context, "a.test").shake_hands()


async def other_version(client: Client) -> None:
    context = trusting()
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        await TlsClient(client.sock, context, "a.test").shake_hands()


async def distrust(client: Client) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLCertVerificationError):
        await TlsClient(client.sock, context, "a.test").shake_hands()


async def garbage(client: Client) -> None:
    await client.send(b"\0\1\2\3")
    await client.read_until_cut()


async def plain_http(client: Client) -> None:
    await client.get()
    await client.read_some()
    client.close()


async def half_a_hello(client: Client) -> None:
    await client.send(b"\x16\x03\x01\x02")
    await turns(20)
    client.half_close()
    await client.read_until_cut()


async def half_a_handshake(client: Client) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(incoming, outgoing, server_hostname="a.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    await client.send(outgoing.read())
    await client.read_some()
    client.abort()


FAILURES = [
    (no_common_cipher, "TLS: the client has no cipher of ours"),
    (no_common_protocol, "TLS: the client speaks no HTTP/1.1"),
    (other_version, "TLS: the client's version is too old"),
    (distrust, "TLS: the client does not know who signed our certificate"),
    (garbage, "TLS: what came is neither TLS nor HTTP"),
    (plain_http, "this port speaks TLS: use https://"),
    (half_a_hello, "the client left within a TLS handshake"),
    (half_a_handshake, "the client left within a TLS handshake"),
]


@on_both_loops
@pytest.mark.parametrize(("fail", "reason"), FAILURES)
async def test_a_handshake_that_comes_to_nothing_is_counted_and_logged_once(
    stage: Stage, certificate: str, fail: Callable[[Client], Awaitable[None]], reason: str
) -> None:
    lb = await serving(stage, certificate)
    [frontend] = lb._plane.frontends
    await fail(await bare_client(stage, lb))
    await eventually(lambda: frontend.counters.tls_failures == 1)
    await eventually(lambda: frontend.counters.connections == 0)
    assert frontend.counters.tls_failures == 1
    assert sum(frontend.counters.refused.values()) == 1
    assert (await refused(stage, lb)).reason == reason


async def test_who_says_nothing_or_is_served_has_not_failed(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    [frontend] = lb._plane.frontends
    (await bare_client(stage, lb)).close()
    client = await tls_client(stage, lb)
    assert (await client.ask()).status == 200
    client.abort()
    await eventually(
        lambda: (frontend.counters.connections_total, frontend.counters.connections) == (2, 0)
    )
    assert frontend.counters.tls_failures == 0


@pytest.mark.slow
async def test_workers_add_up_the_handshakes_that_failed(tmp_path: Path, certificate: str) -> None:
    with reserved_port() as admin:
        file = tmp_path / "lb.toml"
        file.write_text(
            "[process]\nworkers = 2\nmax_connections = 100\n"
            f'[admin]\nbind = "127.0.0.1:{admin}"\n[log]\naccess = "off"\n'
            '[[frontends]]\nname = "public"\nbind = { address = "127.0.0.1:0", tls = true }\n'
            f'default_backend = "agents"\ntls = {{ certificate = "{certificate}" }}\n'
            '[[backends.agents.servers]]\nname = "agent1"\naddress = "127.0.0.1:9"\n'
        )
        async with run(file) as running:
            port = int((await running.says(r"listening on https://\S+:(\d+)"))[1])
            await running.says("admin on")
            for fail, _ in FAILURES:
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    await fail(Client(sock))
            wanted = b'hermes_lb_tls_handshake_failures_total{frontend="public"} %d\n'
            async with asyncio.timeout(30):
                while wanted % len(FAILURES) not in await scraped(admin):  # noqa: ASYNC110 - elsewhere
                    await asyncio.sleep(0.05)


async def scraped(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
    text = await reader.read()
    writer.close()
    return text
