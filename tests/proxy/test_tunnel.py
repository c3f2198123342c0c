"""WebSocket: the handshake is relayed, then raw bytes both ways, each way closed on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, server_of, unsent
from tests.support.waiting import eventually, turns
from tests.support.websocket import SWITCH, accepting, switch

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client, Message, Peer

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BOUND = 512 * 1024


async def a_handshake(
    stage: Stage, wire: bytes = HANDSHAKE, **options: Any
) -> tuple[LoadBalancer, Client, AtOrigin, Message]:
    """What a client has sent is at the server, which has said nothing yet."""
    lb, client, origin = await stage.line(**options)
    await client.send(wire)
    at_origin, message = await origin.accept_request()
    return lb, client, at_origin, message


async def a_tunnel(stage: Stage, **options: Any) -> tuple[LoadBalancer, Client, AtOrigin]:
    lb, client, at_origin, _ = await a_handshake(stage, **options)
    await switch(client, at_origin)
    return lb, client, at_origin


each_side = pytest.mark.parametrize("who", ["client", "server"])


def first_and_other(who: str, client: Client, at_origin: AtOrigin) -> tuple[Peer, Peer]:
    """The side that a test is about, and the one across."""
    return (client, at_origin) if who == "client" else (at_origin, client)


@pytest.mark.http1_only("the key is the balancer's: tests/http2/test_connections.py")
@on_both_loops
async def test_the_handshake_is_relayed(stage: Stage) -> None:
    _, client, at_origin, message = await a_handshake(stage)
    assert message.head.start == "GET /chat HTTP/1.1"
    assert message.get("Upgrade") == "websocket"
    assert message.get("Connection") == "Upgrade"
    assert message.get("Sec-WebSocket-Key") == "dGhlIHNhbXBsZSBub25jZQ=="
    await at_origin.send(accepting(at_origin))
    head = await client.read_head()
    assert head.status == 101
    assert head.get("Upgrade") == "websocket"
    assert head.get("Connection") == "Upgrade"
    assert head.get("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert head.get("Content-Length") is None
    assert head.get("Transfer-Encoding") is None


@on_both_loops
async def test_bytes_pass_both_ways_as_they_are(stage: Stage) -> None:
    _, client, at_origin = await a_tunnel(stage)
    for data in (b"\x81\x02hi", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 1000):
        await client.send(data)
        assert await at_origin.read_exactly(len(data)) == data
        await at_origin.send(data)
        assert await client.read_exactly(len(data)) == data


@on_both_loops
@each_side
async def test_each_direction_ends_on_its_own(stage: Stage, who: str) -> None:
    lb, client, at_origin = await a_tunnel(stage)
    first, other = first_and_other(who, client, at_origin)
    await first.send(b"bye")
    first.half_close()
    assert await other.read_to_end() == b"bye"
    assert in_flight(lb) == [1]
    await other.send(b"still here")
    assert await first.read_exactly(10) == b"still here"
    other.close()
    assert await first.read_to_end() == b""
    await eventually(lambda: in_flight(lb) == [0])
    assert (await stage.log_line(lb)).termination == "--"


@on_both_loops
async def test_a_server_that_says_goodbye_with_its_101(stage: Stage) -> None:
    lb, client, at_origin, _ = await a_handshake(stage)
    await at_origin.send(accepting(at_origin) + b"bye")
    at_origin.close()
    assert (await client.read_head()).status == 101
    assert await client.read_to_end() == b"bye"
    client.close()
    await eventually(lambda: in_flight(lb) == [0])
    assert len(await stage.logged(lb)) == 1


@on_both_loops
@each_side
async def test_a_reset_on_one_side_ends_the_other(stage: Stage, who: str) -> None:
    lb, client, at_origin = await a_tunnel(stage)
    await client.send(b"x")
    await at_origin.read_exactly(1)
    first, other = first_and_other(who, client, at_origin)
    first.abort()
    assert await other.read_until_cut() == b""
    await eventually(lambda: in_flight(lb) == [0])
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("CD" if who == "client" else "SD", 101)


@on_both_loops
async def test_silence_ends_it_once(stage: Stage) -> None:
    """... and it is recorded once."""
    lb, client, at_origin = await a_tunnel(stage, timeouts={"tunnel": 0.1})
    assert await client.read_until_cut() == b""
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("sD", 101)
    assert server_of(lb).counters.responses[1] == 1


async def test_other_timeouts_do_not_end_it(stage: Stage) -> None:
    short = {"server": 0.1, "client": 0.1, "request_head": 0.1, "keep_alive": 0.1, "queue": 0.1}
    lb, client, at_origin = await a_tunnel(stage, timeouts=short)
    probe = await stage.client(lb)
    await probe.read_to_end()  # closed by request_head: so much time has gone
    await client.send(b"ping")
    assert await at_origin.read_exactly(4) == b"ping"
    await at_origin.send(b"pong")
    assert await client.read_exactly(4) == b"pong"


@on_both_loops
async def test_stop_cuts_it_and_records_it_once(stage: Stage) -> None:
    lb, client, at_origin = await a_tunnel(stage)
    await lb.stop()
    assert await client.read_until_cut() == b""
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("KD", 101)


@pytest.mark.http1_only("bytes are given to the connection itself")
@on_both_loops
async def test_what_comes_in_a_second_read_behind_the_101_is_data(stage: Stage) -> None:
    """A loop that was busy reads more than once before its turn ends."""
    lb, client, at_origin, _ = await a_handshake(stage)
    (upstream,) = lb._plane.context.live.upstreams
    upstream.data_received(SWITCH + b"first ")
    upstream.data_received(b"second ")
    await at_origin.send(b"third")
    await client.read_head()
    assert await client.read_exactly(18) == b"first second third"


# No 101.


async def test_the_next_server_is_asked_if_the_first_is_not_there(stage: Stage) -> None:
    second = await stage.origin()
    lb = await stage.balancer(stage.nobody(), second, each=[{}, {"backup": True}])
    client = await stage.client(lb)
    await client.send(HANDSHAKE)
    at_second, _ = await second.accept_request()
    await switch(client, at_second)
    await client.send(b"x")
    assert await at_second.read_exactly(1) == b"x"


# Back-pressure.


@on_both_loops
@each_side
async def test_a_side_that_does_not_read_holds_the_other_back(stage: Stage, who: str) -> None:
    lb, client, at_origin = await a_tunnel(stage)
    reader, sender = first_and_other(who, client, at_origin)
    sent = await sender.send_until_stuck(b"0123456789" * 6000, most=64_000_000)
    assert unsent(lb) < BOUND
    assert await reader.read_exactly(sent) == (b"0123456789" * (sent // 10 + 1))[:sent]
    await sender.send(b"and on")
    assert await reader.read_exactly(6) == b"and on"


async def fill_the_kernel(lb: LoadBalancer, sender: Peer) -> None:
    """Send until the balancer holds some bytes itself, too few to stop reading."""
    while not unsent(lb):
        await sender.send(bytes(16_384))
        await turns()
    assert unsent(lb) < 65_536


@pytest.mark.slow
@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
@each_side
async def test_a_side_that_never_reads_does_not_outlive_the_tunnel(stage: Stage, who: str) -> None:
    """What waits for it in our buffer may never leave; the other side has gone long ago."""
    timeouts = {"tunnel": 0.5, "client": 0.5, "server": 0.5}
    lb, client, at_origin = await a_tunnel(stage, timeouts=timeouts)
    reader, sender = first_and_other(who, client, at_origin)
    await fill_the_kernel(lb, sender)
    sender.abort()
    context = lb._context
    assert context is not None
    await eventually(lambda: in_flight(lb) == [0])
    await eventually(
        lambda: not context.live.clients and not context.live.upstreams, f"{reader} is let go"
    )


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
@each_side
async def test_stop_does_not_wait_for_a_side_that_never_reads(stage: Stage, who: str) -> None:
    lb, client, at_origin = await a_tunnel(stage)
    _, sender = first_and_other(who, client, at_origin)
    await fill_the_kernel(lb, sender)
    sender.abort()
    await eventually(lambda: in_flight(lb) == [0])
    context = lb._context
    assert context is not None
    await lb.stop()
    assert not context.live.upstreams
    assert not context.live.clients


async def test_a_client_that_is_reset_while_we_do_not_read_is_noticed(stage: Stage) -> None:
    """The server reads nothing, so neither do we, and no event tells; `tunnel` is an hour."""
    lb, client, _ = await a_tunnel(stage)
    await fill_the_kernel(lb, client)
    assert in_flight(lb) == [1]
    client.abort()
    await eventually(lambda: in_flight(lb) == [0])
    assert (await stage.log_line(lb)).termination == "CD"
