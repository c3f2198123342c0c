"""TLS to clients: requests and responses, and what is agreed on for them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from tests.support.certificates import trusting
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.origin import answers
from tests.support.tls import (
    TlsClient,
    asking,
    bare_client,
    resuming_client,
    serving,
    tls_client,
    with_tls,
)

if TYPE_CHECKING:
    from tests.support.stage import Stage


@on_both_loops
async def test_requests_and_responses_travel_encrypted(stage: Stage, certificate: str) -> None:
    origin = await stage.serving(answers(b"hello"))
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    assert lb.url.startswith("https://127.0.0.1:")
    client = await tls_client(stage, lb)
    assert client.tls.version() == "TLSv1.3"
    for _ in range(3):
        response = await client.ask("/", "X-Forwarded-Proto: http")
        assert (response.status, response.body) == (200, b"hello")
        assert response.get("Strict-Transport-Security") is None
    assert {request.get("X-Forwarded-Proto") for request in origin.requests} == {"https"}
    assert {request.get("X-Forwarded-For") for request in origin.requests} == {"127.0.0.1"}


async def test_a_route_may_pass_what_tls_has_said(stage: Stage, certificate: str) -> None:
    edits = {"set": {"X-Tls": "{scheme} {tls_version} {tls_name}"}}
    route = {"backend": "agents", "request_headers": edits}
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend={**with_tls(certificate), "routes": [route]})
    client = await tls_client(stage, lb)
    assert (await client.ask("/")).status == 200
    assert origin.requests[0].get("X-Tls") == "https TLSv1.3 a.test"


@on_both_loops
async def test_bytes_may_come_one_by_one(stage: Stage, certificate: str) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    bare = await bare_client(stage, lb)
    client = _Bytewise(bare.sock, trusting(), "a.test")
    await client.shake_hands()
    await client.post(b"body" * 10)
    assert (await client.read_response()).status == 200
    assert origin.requests[0].body == b"body" * 10


class _Bytewise(TlsClient):
    async def _flush(self) -> None:
        await self.wire.send_bytewise(self.outgoing.read())


async def test_a_large_upload_and_a_large_answer_arrive_whole(
    stage: Stage, certificate: str
) -> None:
    body = bytes(range(256)) * 8192  # 2 MiB: many records in one read
    origin = await stage.serving(answers(body))
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client = await tls_client(stage, lb)
    stage.tasks.spawn(client.post(body), name="upload")
    assert (await client.read_response()).body == body
    assert origin.requests[0].body == body


@on_both_loops
async def test_a_slow_reader_holds_the_server_back(stage: Stage, certificate: str) -> None:
    _, client, at_origin = await asking(stage, certificate)
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    sent = await at_origin.send_until_stuck(b"x" * 65536, most=90_000_000)
    head = await client.read_head()
    assert head.status == 200
    await client.read_exactly(sent // 2)  # and it goes on when there is room again
    await at_origin.send(b"x" * 1000)


@on_both_loops
async def test_a_slow_server_holds_the_client_back(stage: Stage, certificate: str) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, frontend=with_tls(certificate))
    client = await tls_client(stage, lb)
    await client.send(request("POST", "/", "Content-Length: 50000000"))
    at_origin = await origin.accept()
    await at_origin.read_head()
    client.tls.write(bytes(50_000_000))
    records = client.outgoing.read()
    await client.wire.send_until_stuck(records, most=len(records))


async def test_tls_1_2_is_spoken_with_forward_secrecy(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = await tls_client(stage, lb, context=context)
    assert (await client.ask()).status == 200
    cipher = client.tls.cipher()
    assert cipher is not None
    assert cipher[0].startswith("ECDHE-ECDSA-")


async def test_a_session_is_resumed(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate)
    context = trusting()
    first = await tls_client(stage, lb, context=context)
    await first.ask()  # the ticket comes before it
    assert (await resuming_client(stage, lb, context, first)).tls.session_reused


async def test_without_tickets_each_handshake_is_whole(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate, session_tickets=False)
    client = await tls_client(stage, lb)
    await client.ask()
    assert client.tls.session is not None
    assert not client.tls.session.has_ticket
