"""Windows: a stream that is not read holds back its own server, and costs its bound."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.http2.test_requests import HTTP2, by_hand
from tests.support.http2_peer import Http2Client, StreamWasReset, frame
from tests.support.stage import in_flight, unsent
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Message
    from tests.support.stage import Stage

# Held of a stream that is not read: the high-water mark, and a read of the server's connection.
HELD = 64 * 1024 + 256 * 1024
WINDOW = 65_535
SIZE = 300_000


def held(lb: LoadBalancer) -> int:
    """Bytes of responses that wait in the balancer, for windows or for the kernel."""
    connections: Any = lb._plane.context.live.clients
    streams = [each for one in connections for each in one.streams.values()]
    return sum(each.unsent for each in streams) + unsent(lb)


async def many(connection: AtOrigin, message: Message) -> None:
    """As much as is taken of 50 MB; of any other 300 KB."""
    if message.head.target != "/stuck":
        await connection.respond(b"y" * SIZE)
        return
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    await connection.send_until_stuck(b"x" * 65_536, 50_000_000)
    await asyncio.Event().wait()


async def test_of_a_hundred_streams_one_is_never_read(stage: Stage) -> None:
    origin = await stage.serving(many)
    lb = await stage.balancer(origin, **HTTP2)
    client = Http2Client(await stage.client(lb), window=WINDOW)
    stuck = await client.open("/stuck")
    client.stuck.add(stuck)
    numbers = [await client.open(f"/{n}") for n in range(99)]
    most = 0
    for number in numbers:
        await client.read_until(lambda: number in client.ended)  # noqa: B023 - awaited here
        most = max(most, held(lb))
        assert len(client.bodies[number]) == SIZE
    await client.body(stuck, WINDOW)
    await turns(50)
    assert len(client.bodies[stuck]) == WINDOW
    assert held(lb) <= HELD
    assert most <= 100 * HELD  # of all, while they are served
    assert in_flight(lb) == [1]
    # It goes on where it is: nothing is lost.
    client.stuck.clear()
    client.http2.increment_flow_control_window(1_000_000, stuck)
    await client.flush()
    await client.body(stuck, WINDOW + 1_000_000)
    await client.reset(stuck)
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_hundred_streams_with_windows_of_zero(stage: Stage) -> None:
    """Each holds its bound, and ends by the client's timeout; others are served meanwhile."""
    lb, client, origin = await by_hand(stage, timeouts={"client": "500ms"})
    client = Http2Client(client.client, window=0)
    numbers = [await client.open(f"/{n}") for n in range(100)]
    for _ in numbers:
        at_origin, _ = await origin.accept_request()
        await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 400_000)
    for number in numbers:
        await client.head(number)
    assert held(lb) <= 100 * HELD
    assert not client.bodies
    other = Http2Client(await stage.client(lb))
    number = await other.open("/other")
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"fine")
    assert (await other.answer(number)).body == b"fine"
    for number in numbers:
        with pytest.raises(StreamWasReset):
            await client.answer(number)
    await eventually(lambda: in_flight(lb) == [0])
    assert held(lb) == 0


async def test_windows_that_grow_by_a_byte(stage: Stage) -> None:
    """A byte for each WINDOW_UPDATE, in order; a client that behaves is served beside it."""
    lb, client, origin = await by_hand(stage)
    client = Http2Client(client.client, window=0)
    number = await client.open()
    client.stuck.add(number)
    at_origin, _ = await origin.accept_request()
    body = bytes(range(256)) * 8
    await at_origin.respond(body)
    await client.head(number)
    other = Http2Client(await stage.client(lb))
    for size in range(1, 201):
        client.http2.increment_flow_control_window(1, number)
        await client.flush()
        assert await client.body(number, size) == body[:size]
        if size % 50 == 0:
            beside = await other.open("/other")
            await at_origin.read_request()  # its server is done with the first one
            await at_origin.respond(b"fine")
            assert (await other.answer(beside)).body == b"fine"
    client.http2.increment_flow_control_window(10_000, number)
    await client.flush()
    assert (await client.answer(number)).body == body


async def test_a_window_that_shrinks_below_zero(stage: Stage) -> None:
    """SETTINGS may take back what was given (RFC 9113 section 6.9.2)."""
    _, client, origin = await by_hand(stage)
    number = await client.open()
    client.stuck.add(number)
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"x" * 100_000)
    await client.body(number, WINDOW)
    await client.client.send(frame(4, 0, 0, b"\0\4" + (10_000).to_bytes(4)))
    client.http2.increment_flow_control_window(50_000, number)
    await client.flush()
    other = await client.open("/other")
    await at_origin.read_request()
    await at_origin.respond(b"fine")
    assert (await client.answer(other)).body == b"fine"
    assert len(client.bodies[number]) == WINDOW  # 55,535 less, 50,000 more
    client.http2.increment_flow_control_window(50_000, number)
    await client.flush()
    assert len((await client.answer(number)).body) == 100_000


async def test_uploads_that_their_servers_do_not_read(stage: Stage) -> None:
    """As many as may be: each takes its own window, and leaves the connection's to others."""
    origin = await stage.origin(receive_buffer=4096)
    lb = await stage.balancer(origin, **HTTP2)
    client = Http2Client(await stage.client(lb))
    await client.flush()
    await client.read_until(lambda: client.http2.outbound_flow_control_window > 100 * WINDOW)
    stuck = []
    for n in range(20):
        number = await client.open(
            f"/{n}", ("content-length", "9000000"), method="POST", ends=False
        )
        connection = await origin.accept()
        await connection.read_head()
        stuck.append(number)
    for number in stuck:
        while client.http2.local_flow_control_window(number):
            room = min(client.http2.local_flow_control_window(number), 16_384)
            await client.send_body(number, b"x" * room)
    beside = await client.open("/other", method="POST", ends=False)
    await client.send_body(beside, b"y" * 16_384, ends=True)
    there, message = await origin.accept_request()
    assert message.body == b"y" * 16_384
    await there.respond(b"got it")
    assert (await client.answer(beside)).body == b"got it"
