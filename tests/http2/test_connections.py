"""Connections by HTTP/2: TLS, graceful ends, WebSocket, deadlines."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import TYPE_CHECKING

import pytest

from tests.http2.test_requests import by_hand, with_client
from tests.support.http2_peer import PREFACE, Http2Client, StreamWasReset
from tests.support.stage import in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stage import Stage


async def test_a_drain_lets_streams_finish(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    number = await client.open("/slow")
    at_origin, _ = await origin.accept_request()
    draining = stage.tasks.spawn(lb.drain(5.0), name="drain")
    await client.read_until(lambda: len(client.goaways) >= 2)
    assert client.goaways[0].last_stream_id == 2**31 - 1
    assert client.goaways[-1].last_stream_id == number
    assert {one.error_code for one in client.goaways} == {0}
    await at_origin.respond(b"done")
    assert (await client.answer(number)).body == b"done"
    await draining
    await client.read_to_end()


async def test_a_request_on_its_way_to_a_draining_balancer_is_served(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    await client.flush()
    await client.client.read_some()
    draining = stage.tasks.spawn(lb.drain(5.0), name="drain")
    await client.read_until(lambda: bool(client.goaways))
    number = await client.open("/late")
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"fine")
    assert (await client.answer(number)).body == b"fine"
    await draining


async def test_an_idle_connection_ends_with_a_goaway(stage: Stage) -> None:
    client = await with_client(stage, timeouts={"keep_alive": "100ms"})
    assert (await client.ask()).status == 200
    await client.read_to_end()
    assert [one.error_code for one in client.goaways] == [0]


async def test_a_connection_without_a_request_ends(stage: Stage) -> None:
    client = await with_client(stage, timeouts={"request_head": "100ms"})
    await client.flush()
    await client.read_to_end()


async def test_a_preface_that_never_ends(stage: Stage) -> None:
    client = await with_client(stage, timeouts={"request_head": "100ms"})
    await client.client.send(PREFACE[:20])
    await client.client.read_until_cut()


async def test_a_response_that_is_never_read_is_reset(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage, timeouts={"client": "200ms"})
    number = await client.open()
    client.stuck.add(number)
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"x" * 90_000)
    with pytest.raises(StreamWasReset):
        await client.answer(number)
    await eventually(lambda: in_flight(lb) == [0])


async def test_the_client_leaves_with_everything(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    for _ in range(5):
        await client.open()
        await origin.accept_request()
    client.client.abort()
    await eventually(lambda: in_flight(lb) == [0])
    assert {line.termination[:2] for line in await stage.logged(lb, 5)} == {"CH"}


def accept_key(key: bytes) -> bytes:
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


async def websocket(client: Http2Client) -> int:
    return await client.send_fields(
        [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
            (":path", "/chat"), (":authority", "a"), ("sec-websocket-version", "13"),
        ],
        ends=False,
    )  # fmt: skip


async def test_a_websocket(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await websocket(client)
    at_origin, request = await origin.accept_request()
    assert request.head.method == "GET"
    assert request.head.get("Upgrade") == "websocket"
    key = request.head.get("Sec-WebSocket-Key")
    assert key is not None
    await at_origin.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\nfirst" % accept_key(key.encode())
    )
    head = await client.head(number)
    assert head[0] == (":status", "200")
    assert "sec-websocket-accept" not in dict(head)
    assert await client.body(number, 5) == b"first"
    await client.send_body(number, b"hello")
    assert await at_origin.read_exactly(5) == b"hello"
    await client.send_body(number, b"", ends=True)
    assert await at_origin.read_to_end() == b""
    await at_origin.send(b"bye")
    at_origin.close()
    assert (await client.answer(number)).body == b"firstbye"
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_client_goes_on_when_the_server_has_ended_its_half(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await websocket(client)
    at_origin, request = await origin.accept_request()
    key = request.head.get("Sec-WebSocket-Key")
    assert key is not None
    await at_origin.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\nbye" % accept_key(key.encode())
    )
    at_origin.half_close()
    assert (await client.answer(number)).body == b"bye"
    await client.send_body(number, b"still here", ends=True)
    assert await at_origin.read_to_end() == b"still here"
    await eventually(lambda: in_flight(lb) == [0])


async def test_what_comes_before_the_101_is_for_the_tunnel(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await websocket(client)
    await client.send_body(number, b"ear")
    at_origin, request = await origin.accept_request()
    await client.send_body(number, b"ly", ends=True)
    key = request.head.get("Sec-WebSocket-Key")
    assert key is not None
    await at_origin.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_key(key.encode())
    )
    assert await at_origin.read_to_end() == b"early"
    at_origin.close()
    assert (await client.answer(number)).body == b""
    await eventually(lambda: in_flight(lb) == [0])


async def test_what_comes_before_a_refusal_costs_no_window(stage: Stage) -> None:
    """Of the connection, which is as large as a hundred streams may fill."""
    _, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    for _ in range(110):
        number = await websocket(client)
        at_origin, _ = await origin.accept_request()
        for _ in range(4):
            await client.send_body(number, b"x" * 16_000)
        await client.read_until(lambda: client.http2.outbound_flow_control_window > 64_000)
        await at_origin.respond(b"no", status=403)
        assert (await client.answer(number)).status == 403
        at_origin.close()


async def test_a_server_that_does_not_accept_the_websocket(stage: Stage) -> None:
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await websocket(client)
    at_origin, _ = await origin.accept_request()
    await at_origin.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IG91cnM=\r\n\r\n"
    )
    with pytest.raises(StreamWasReset):
        await client.answer(number)
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_websocket_that_is_refused(stage: Stage) -> None:
    _, client, origin = await by_hand(stage)
    client = Http2Client(client.client, checks=False)
    number = await websocket(client)
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"no", status=403)
    answer = await client.answer(number)
    assert (answer.status, answer.body) == (403, b"no")
