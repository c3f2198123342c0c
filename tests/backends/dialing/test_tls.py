"""TLS to servers: who is trusted, what a failure says, what is reused, and where a body ends."""

from __future__ import annotations

import datetime
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support.certificates import pem, server_context
from tests.support.http_peer import Ended, response
from tests.support.loops import on_both_loops
from tests.support.stage import pool_of
from tests.support.tls import accept_tls
from tests.support.waiting import eventually
from tests.support.websocket import WEBSOCKET, switch

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage
    from tests.support.tls import TlsAtOrigin

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", "agents.internal")


@pytest.fixture
def trusting(ca: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    """`tls` of a backend that trusts `ca`."""
    return {"ca": pem(tmp_path, "ca.pem", ca.cert_pem.bytes())}


async def asking(
    stage: Stage, tls: dict[str, Any], context: ssl.SSLContext, *fields: str
) -> tuple[LoadBalancer, Client, TlsAtOrigin]:
    """A client's GET is at its server, which has said nothing yet."""
    lb, client, origin = await stage.line(backend={"tls": tls})
    await client.get("/", *fields)
    connection = await accept_tls(origin, context)
    await connection.read_request()
    return lb, client, connection


@on_both_loops
async def test_a_connection_over_tls_serves_one_request_after_another(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    _, client, origin = await stage.line(backend={"tls": trusting})
    await client.get("/1")
    at_origin = await accept_tls(origin, server_context(certificate))
    for body in (b"first", b"second" * 50_000):
        await at_origin.read_request()
        await at_origin.serves(client, body)
        await client.post(b"body" * 10_000)
    assert (await at_origin.read_request()).body == b"body" * 10_000
    assert at_origin.tls.version() == "TLSv1.3"
    assert await origin.has_no_new_connection()


async def test_the_server_name_is_asked_for_and_checked(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    _, client, origin = await stage.line(
        backend={"tls": {**trusting, "server_name": "other.internal"}},
        server={"server_name": "agents.internal"},
    )
    await client.get()
    at_origin = await accept_tls(origin, server_context(certificate))
    assert at_origin.server_name == "agents.internal"


async def refusal(stage: Stage, lb: LoadBalancer) -> str:
    """The reason that the log gives for a request that no server took."""
    client = await stage.client(lb)
    assert (await client.ask()).status == 503
    line = await stage.log_line(lb)
    assert line.termination == "SC"
    return line.reason


async def serve_in_vain(origin: Origin, context: ssl.SSLContext, *errors: type[Exception]) -> None:
    """A server with which no handshake is finished: it sees one of these errors."""
    with pytest.raises(errors):
        await accept_tls(origin, context)


def expired(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", not_after=YESTERDAY)


def of_another_name(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("other.internal")


def of_a_stranger(ca: trustme.CA) -> trustme.LeafCert:
    return trustme.CA().issue_cert("127.0.0.1")


@on_both_loops
@pytest.mark.parametrize(
    ("issue", "words"),
    [
        (expired, "its certificate has expired"),
        (of_another_name, "its certificate is not valid for '127.0.0.1'"),
        (of_a_stranger, "its certificate is signed by an authority that ca does not have"),
    ],
)
async def test_a_certificate_that_is_no_good_is_said_in_words(
    stage: Stage, ca: trustme.CA, trusting: dict[str, Any], issue: Any, words: str
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, backend={"tls": trusting, "retries": 0})
    server = serve_in_vain(origin, server_context(issue(ca)), ssl.SSLError, Ended)
    stage.tasks.spawn(server, name="server")
    assert words in await refusal(stage, lb)


async def speak_plainly(origin: Origin) -> None:
    await (await origin.accept()).send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_a_server_that_speaks_plain_http_is_said_to(
    stage: Stage, trusting: dict[str, Any]
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, backend={"tls": trusting, "retries": 0})
    stage.tasks.spawn(speak_plainly(origin), name="server")
    assert "it does not speak TLS" in await refusal(stage, lb)


async def test_a_server_that_leaves_within_the_handshake_is_said_to(
    stage: Stage, trusting: dict[str, Any]
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, backend={"tls": trusting, "retries": 0})

    async def leave() -> None:
        connection = await origin.accept()
        await connection.read_some()
        connection.close()

    stage.tasks.spawn(leave(), name="server")
    assert "closed within the TLS handshake" in await refusal(stage, lb)


@on_both_loops
@pytest.mark.parametrize("proxy_protocol", [None, "v1"])
async def test_a_handshake_that_takes_too_long_is_a_connect_timeout(
    stage: Stage, trusting: dict[str, Any], proxy_protocol: str | None
) -> None:
    lb, client, origin = await stage.line(
        backend={"tls": trusting, "proxy_protocol": proxy_protocol, "retries": 0},
        timeouts={"connect": "100ms"},
    )
    await client.get()
    at_origin = await origin.accept()
    assert (await client.read_response()).status == 503
    assert (await stage.log_line(lb)).termination == "sC"
    await at_origin.read_until_cut()  # nothing of it is left open


async def test_a_version_that_is_too_old_is_refused(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(
        origin, backend={"tls": {**trusting, "min_version": "1.3"}, "retries": 0}
    )
    context = server_context(certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    stage.tasks.spawn(serve_in_vain(origin, context, ssl.SSLError), name="server")
    assert "it refused TLS: protocol version" in await refusal(stage, lb)


async def test_with_verify_false_any_certificate_will_do(stage: Stage) -> None:
    unknown = server_context(of_a_stranger(trustme.CA()))
    _, client, connection = await asking(stage, {"verify": False}, unknown)
    await connection.serves(client, b"ok")


async def test_a_failed_handshake_moves_a_post_to_another_server(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    good = await stage.origin()
    plain = await stage.origin()
    lb = await stage.balancer(plain, good, backend={"tls": trusting})
    stage.tasks.spawn(speak_plainly(plain), name="server")
    client = await stage.client(lb)
    await client.post(b"once")
    connection = await accept_tls(good, server_context(certificate))
    assert (await connection.read_request()).body == b"once"
    await connection.serves(client, b"done")
    assert (await stage.log_line(lb)).retries == "+1"


async def test_our_certificate_is_shown(
    stage: Stage,
    ca: trustme.CA,
    trusting: dict[str, Any],
    certificate: trustme.LeafCert,
    tmp_path: Path,
) -> None:
    ours = ca.issue_cert("balancer.internal").private_key_and_cert_chain_pem.bytes()
    _, client, origin = await stage.line(
        backend={"tls": {**trusting, "certificate": pem(tmp_path, "lb.pem", ours)}}
    )
    await client.get()
    connection = await accept_tls(origin, server_context(certificate, ca=ca))
    shown = connection.tls.getpeercert()
    assert shown is not None
    assert ("DNS", "balancer.internal") in shown["subjectAltName"]


@on_both_loops
async def test_a_server_that_wants_a_certificate_of_ours_says_so(
    stage: Stage, ca: trustme.CA, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    lb, client, origin = await stage.line(backend={"tls": trusting, "retries": 0})
    await client.get()
    with pytest.raises(ssl.SSLError):
        await accept_tls(origin, server_context(certificate, ca=ca))
    assert (await client.read_response()).status in (502, 503)
    assert "certificate required" in (await stage.log_line(lb)).reason


@on_both_loops
@pytest.mark.parametrize("fields", [(), ("Connection: close",)], ids=["kept", "closed"])
async def test_the_next_connection_resumes_the_session(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert, fields: tuple[str, ...]
) -> None:
    context = server_context(certificate)
    _, client, origin = await stage.line(backend={"tls": trusting})
    resumed = []
    for _ in range(2):
        await client.get()
        connection = await accept_tls(origin, context)
        resumed.append(connection.tls.session_reused)
        await connection.read_request()
        await connection.send_and_end(response(b"ok", *fields))
        assert (await client.read_response()).body == b"ok"
    assert resumed == [False, True]


@on_both_loops
async def test_a_post_does_not_take_a_connection_that_is_ending(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    """The close_notify came with the response, so the kernel holds no news any more."""
    context = server_context(certificate)
    origin = await stage.origin()
    lb = await stage.balancer(origin, backend={"tls": trusting}, server={"max_connections": 1})
    first, second = await stage.client(lb), await stage.client(lb)
    await first.get()
    connection = await accept_tls(origin, context)
    await connection.read_request()
    await second.post(b"once")
    await eventually(lambda: pool_of(lb).waiting)
    await connection.send_and_end(response(b"ok"))
    assert (await first.read_response()).body == b"ok"
    connection = await accept_tls(origin, context)
    assert (await connection.read_request()).body == b"once"
    await connection.serves(second, b"done")


@on_both_loops
async def test_a_body_until_close_ends_with_a_close_notify(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    lb, client, connection = await asking(stage, trusting, server_context(certificate))
    await connection.send_and_end(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    assert (await client.read_response()).body == b"all of it"
    assert (await stage.log_line(lb)).termination == "--"


@on_both_loops
async def test_a_body_until_close_is_cut_without_a_close_notify(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    lb, client, connection = await asking(stage, trusting, server_context(certificate))
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\na part")
    await client.read_head()
    assert await client.read_chunk() == b"a part"
    connection.close()
    assert await client.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert line.termination == "SD"
    assert "without a TLS close_notify" in line.reason


async def a_tunnel(
    stage: Stage, tls: dict[str, Any], certificate: trustme.LeafCert
) -> tuple[LoadBalancer, Client, TlsAtOrigin]:
    lb, client, connection = await asking(stage, tls, server_context(certificate), *WEBSOCKET)
    await switch(client, connection)
    return lb, client, connection


@on_both_loops
async def test_a_tunnel_over_tls_ends_for_both_when_the_client_ends(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    lb, client, connection = await a_tunnel(stage, trusting, certificate)
    await client.send(b"last words")
    client.half_close()
    assert await connection.read_exactly(10) == b"last words"
    assert await connection.read_until_cut() == b""
    assert connection.was_told_goodbye
    assert (await stage.log_line(lb)).termination == "--"


@on_both_loops
async def test_a_tunnel_over_tls_ends_for_both_when_the_server_ends(
    stage: Stage, trusting: dict[str, Any], certificate: trustme.LeafCert
) -> None:
    lb, client, connection = await a_tunnel(stage, trusting, certificate)
    await connection.send_and_end(b"last words")
    assert await client.read_to_end() == b"last words"
    assert (await stage.log_line(lb)).termination == "--"
