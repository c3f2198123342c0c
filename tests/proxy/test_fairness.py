"""One connection has a bounded share of a loop iteration and of memory, whatever it sends.

libuv reads up to 32 times 256 KB from a connection in one iteration, as long as each read fills
its buffer and it is not paused. How much it finds depends on the kernel, so here the test plays
libuv: it calls `data_received` of the real connections.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.http.body import MOST_CHUNKS
from hermes_lb.testing import eventually
from tests.support.http_peer import CHUNKED_POST, ENDLESS_POST, request
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight
from tests.support.waiting import turns
from tests.support.websocket import WEBSOCKET, switch

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http1.upstream import UpstreamConnection
    from tests.support.http_peer import AtOrigin, Client, Message
    from tests.support.stage import Stage

FULL_READ = 256 * 1024
MOST_READS = 32
HIGH_WATER = 64 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n"
TINY = b"1\r\na\r\n"
EXTENDED = b"1;x\r\na\r\n"


def read(transport: asyncio.Transport, data: bytes) -> None:
    protocol: Any = transport.get_protocol()
    protocol.data_received(data)


def one_iteration(transport: asyncio.Transport, data: bytes) -> int:
    """-> how often libuv would have read in one loop iteration, if each read fills its buffer."""
    for count in range(MOST_READS):
        if not transport.is_reading():
            return count
        read(transport, data)
    return MOST_READS


def client_side(lb: LoadBalancer) -> ClientConnection:
    assert lb._context is not None
    (connection,) = lb._context.live.clients
    return connection


def server_side(lb: LoadBalancer) -> UpstreamConnection:
    assert lb._context is not None
    (connection,) = lb._context.live.upstreams
    return connection


def full(data: bytes) -> bytes:
    """As often as it fits into libuv's buffer."""
    return data * (FULL_READ // len(data))


async def an_exchange(
    stage: Stage, wire: bytes, **options: Any
) -> tuple[LoadBalancer, Client, AtOrigin]:
    """The request has reached the server, as far as it goes."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, **options)
    client = await stage.client(lb, receive_buffer=16_384)
    await client.send(wire)
    at_origin = await origin.accept()
    await at_origin.read_head()
    return lb, client, at_origin


# What a client sends.

GET = request("GET", "/")
FROM_CLIENT = {
    "requests": (GET, full(GET)),
    "upload": (ENDLESS_POST, full(b"x")),
    "large-chunks": (CHUNKED_POST, full(b"4000\r\n" + bytes(0x4000) + b"\r\n")),
    "tiny-chunks": (CHUNKED_POST, full(TINY)),
    "extensions": (CHUNKED_POST, full(EXTENDED)),
}


@on_both_loops
@pytest.mark.parametrize("what", FROM_CLIENT)
async def test_a_client_is_read_from_once_in_an_iteration(stage: Stage, what: str) -> None:
    head, data = FROM_CLIENT[what]
    lb, _, _ = await an_exchange(stage, head)
    assert one_iteration(client_side(lb).transport, data) == 1


@on_both_loops
async def test_so_is_one_whose_request_has_just_begun(stage: Stage) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin)
    await stage.client(lb)
    await eventually(lambda: bool(lb._context and lb._context.live.clients))
    assert one_iteration(client_side(lb).transport, full(GET)) == 1


@pytest.mark.http1_only("a body of chunks is parsed in parts")
async def test_so_is_one_whose_upload_is_thrown_away(stage: Stage) -> None:
    lb, client, at_origin = await an_exchange(stage, CHUNKED_POST)
    await at_origin.respond(b"no", status=413)
    await client.read_response()
    connection = client_side(lb)
    assert connection.is_closing
    assert one_iteration(connection.transport, full(b"x")) == 1
    await turns()
    assert connection.transport.is_reading()


@pytest.mark.http1_only("a body of chunks is parsed in parts")
@pytest.mark.parametrize("who", ["client", "server"])
async def test_so_is_each_side_of_a_tunnel(stage: Stage, who: str) -> None:
    lb, client, at_origin = await an_exchange(stage, request("GET", "/", *WEBSOCKET))
    await switch(client, at_origin)
    connection = client_side(lb) if who == "client" else server_side(lb)
    reading = at_origin if who == "client" else client
    for _ in range(4):
        await eventually(connection.transport.is_reading)
        assert one_iteration(connection.transport, full(b"frame")) == 1
        await reading.read_exactly(len(full(b"frame")))


# What a server sends.

FROM_SERVER = {
    "length": (LENGTH, full(b"x")),
    "tiny-chunks": (CHUNKED, full(TINY)),
    "extensions": (CHUNKED, full(EXTENDED)),
    "until-close": (b"HTTP/1.1 200 OK\r\n\r\n", full(b"x")),
}


@on_both_loops
@pytest.mark.parametrize("when", ["with-the-head", "behind-it"])
@pytest.mark.parametrize("what", FROM_SERVER)
async def test_a_server_is_read_from_once_in_an_iteration(
    stage: Stage, what: str, when: str
) -> None:
    head, data = FROM_SERVER[what]
    lb, client, at_origin = await an_exchange(stage, GET)
    if when == "behind-it":
        await at_origin.send(head)
        await client.read_head()
    else:
        data = head + data
    assert one_iteration(server_side(lb).transport, data) == 1


@on_both_loops
@pytest.mark.parametrize("what", FROM_SERVER)
async def test_a_reader_that_does_not_read_costs_a_read_and_the_high_water_mark(
    stage: Stage, what: str
) -> None:
    head, data = FROM_SERVER[what]
    lb, _, _ = await an_exchange(stage, GET)
    client, server = client_side(lb), server_side(lb)
    taken = one_iteration(server.transport, head + data) * FULL_READ
    most = 0
    for _ in range(20_000):
        await asyncio.sleep(0)
        taken += one_iteration(server.transport, data) * FULL_READ
        unsent = client.transport.get_write_buffer_size()
        most = max(most, unsent + server.behind + len(server._more) + len(server._pending))
        if not server.transport.is_reading() and not server.has_had_its_share:
            break
    else:
        raise AssertionError(f"{taken} bytes were taken, and nothing held the server back")
    assert not server.transport.is_closing()
    assert taken >= FULL_READ
    assert most <= HIGH_WATER + FULL_READ + 64 * 16  # chunks of ours around what has no length


# Parts.


@pytest.mark.http1_only("a body of chunks is parsed in parts")
@on_both_loops
@pytest.mark.parametrize("chunk", [TINY, EXTENDED])
async def test_tiny_chunks_of_a_client_leave_in_parts_and_in_order(
    stage: Stage, chunk: bytes
) -> None:
    lb, client, at_origin = await an_exchange(stage, CHUNKED_POST)
    count = FULL_READ // len(chunk)
    connection = client_side(lb)
    assert one_iteration(connection.transport, chunk * count) == 1
    behind = connection.behind
    assert behind == (count - MOST_CHUNKS) * len(chunk)
    await asyncio.sleep(0)
    assert behind - connection.behind <= 2 * MOST_CHUNKS * len(chunk)
    assert not connection.transport.is_reading()
    assert await at_origin.read_exactly(count * len(TINY)) == TINY * count
    await eventually(connection.transport.is_reading)
    await client.send(b"5\r\nhello\r\n0\r\n\r\n")
    assert await at_origin.read_until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"
    await at_origin.serves(client, b"done")


@pytest.mark.http1_only("a body of chunks is parsed in parts")
async def test_what_is_behind_a_body_that_comes_in_parts_is_the_next_request(stage: Stage) -> None:
    lb, client, at_origin = await an_exchange(stage, CHUNKED_POST)
    data = TINY * 5000 + b"0\r\n\r\n" + request("GET", "/next") + request("GET", "/last")
    read(client_side(lb).transport, data)
    assert await at_origin.read_until(b"0\r\n\r\n") == TINY * 5000 + b"0\r\n\r\n"
    await at_origin.serves(client, b"posted")
    for target in ("/next", "/last"):
        assert (await at_origin.read_request()).head.target == target
        await at_origin.serves(client, target.encode())


@pytest.mark.http1_only("a body of chunks is parsed in parts")
async def test_a_body_may_break_or_become_too_large_in_a_later_part(stage: Stage) -> None:
    for data, status in ((TINY * 5000 + b"x", 400), (TINY * 20_000, 413)):
        lb, client, _ = await an_exchange(stage, CHUNKED_POST, limits={"body_size": 100_000})
        read(client_side(lb).transport, data)
        assert (await client.read_response()).status == status


@pytest.mark.http1_only("a body of chunks is parsed in parts")
async def test_a_body_at_its_limit_is_not_too_large_for_what_is_behind_it(stage: Stage) -> None:
    data = TINY * 3000 + b"0\r\n\r\n"
    limits = {"body_size": len(data)}
    lb, client, at_origin = await an_exchange(stage, CHUNKED_POST, limits=limits)
    read(client_side(lb).transport, data + request("GET", "/next"))
    assert await at_origin.read_until(b"0\r\n\r\n") == data
    await at_origin.serves(client, b"posted")
    assert (await at_origin.read_request()).head.target == "/next"
    await at_origin.respond()
    await client.read_response()


@pytest.mark.http1_only("a body of chunks is parsed in parts")
async def test_an_upload_that_waits_for_a_server_costs_its_bound_and_a_read(stage: Stage) -> None:
    origin, bound = await stage.origin(), 4096
    lb = await stage.balancer(origin, server={"max_connections": 1}, limits={"retry_buffer": bound})
    first, client = await stage.client(lb), await stage.client(lb)
    await first.get("/first")
    at_origin, _ = await origin.accept_request()
    await client.send(CHUNKED_POST)
    await eventually(lambda: len(lb.pools["agents"].waiting) == 1)
    assert lb._context is not None
    (waiting,) = (c for c in lb._context.live.clients if c.exchange and c.exchange.upload)
    assert one_iteration(waiting.transport, full(TINY)) == 1
    await eventually(lambda: not waiting.behind)
    assert not waiting.transport.is_reading()  # until there is a server
    await at_origin.respond()
    assert (await at_origin.read_head()).method == "POST"
    assert await at_origin.read_exactly(len(full(TINY))) == full(TINY)
    await eventually(waiting.transport.is_reading)


@pytest.mark.http1_only("bytes are compared")
@on_both_loops
@pytest.mark.parametrize("ends", [True, False])
async def test_a_server_that_ends_behind_many_chunks_has_said_them_all(
    stage: Stage, ends: bool
) -> None:
    lb, client, _ = await an_exchange(stage, GET)
    server = server_side(lb)
    last = b"0\r\n\r\n" if ends else b""
    read(server.transport, CHUNKED + TINY * 5000 + last)
    server.eof_received()
    head = await client.read_head()
    if ends:
        assert await client.read_body(head) == b"a" * 5000
        assert server.home.idle == 0  # it has ended
    else:
        assert await client.read_until_cut() == TINY * 5000


async def test_a_connection_that_has_ended_is_not_for_the_next_in_the_queue(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server={"max_connections": 1})
    first, second = await stage.client(lb), await stage.client(lb)
    await first.get()
    await origin.accept_request()
    await second.get("/second")
    await eventually(lambda: len(lb.pools["agents"].waiting) == 1)
    server = server_side(lb)
    read(server.transport, CHUNKED + TINY * 5000 + b"0\r\n\r\n")
    server.eof_received()
    assert (await first.read_response()).body == b"a" * 5000
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/second"
    await at_origin.serves(second, b"fresh")


async def test_a_server_with_much_behind_is_used_again(stage: Stage) -> None:
    lb, client, at_origin = await an_exchange(stage, GET)
    server = server_side(lb)
    read(server.transport, CHUNKED + TINY * 40_000 + b"0\r\n\r\n")
    assert (await client.read_response()).body == b"a" * 40_000
    await eventually(server.transport.is_reading)
    await at_origin.serves_the_next_of(client)


# All reasons at once.


async def test_a_reader_that_catches_up_does_not_end_the_wait_for_a_decision(stage: Stage) -> None:
    lb, client, at_origin = await an_exchange(stage, GET)
    server, decision = server_side(lb), asyncio.get_running_loop().create_future()
    server.hold(decision)
    client_side(lb).pause_writing()
    client_side(lb).resume_writing()
    assert not server.transport.is_reading()
    decision.set_result(None)
    await eventually(server.transport.is_reading)
    await at_origin.serves(client, b"decided")


def _in_chunks(data: bytes, rng: random.Random) -> bytes:
    most = rng.choice([1, 1, 3, 40_000])
    wire, at = [], 0
    while at < len(data):
        size = rng.randint(1, most)
        wire.append(b"%x\r\n%b\r\n" % (len(data[at : at + size]), data[at : at + size]))
        at += size
    return b"".join(wire) + b"0\r\n\r\n"


def _body(rng: random.Random, name: str) -> bytes:
    return name.encode() * rng.choice([0, 1, 200, 1000])


async def _sent_in_parts(peer: AtOrigin | Client, data: bytes, rng: random.Random) -> None:
    size = rng.choice([2000, 70_000, len(data)])
    for at in range(0, len(data), size):
        await peer.send(data[at : at + size])
        await turns(rng.choice([0, 0, 1, 20]))


@on_both_loops
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_has_paused_it_each_connection_reads_on(stage: Stage, seed: int) -> None:
    """Peers that are slow in turn, chunks of one byte, and requests one behind the other."""
    rng = random.Random(seed)

    async def answer(connection: AtOrigin, message: Message) -> None:
        await turns(rng.choice([0, 0, 5, 30]))
        body = message.head.target.encode() + message.body * rng.choice([1, 1, 50])
        if rng.random() < 0.6:
            wire = CHUNKED + _in_chunks(body[:20_000], rng)
        else:
            wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        await _sent_in_parts(connection, wire, rng)

    origin = await stage.origin(receive_buffer=16_384)
    origin.serve(answer)
    lb = await stage.balancer(
        origin, server={"max_connections": 2}, limits={"retry_buffer": 8192, "request_burst": 9999}
    )

    async def visit(number: int) -> None:
        client = await stage.client(lb, receive_buffer=16_384)
        wires = []
        for n in range(8):
            name = f"/{number}-{n}"
            kind = rng.choice(["GET", "length", "chunked"])
            if kind == "GET":
                wires.append(request("GET", name))
            elif kind == "length":
                wires.append(request("POST", name, body=_body(rng, name)))
            else:
                head = request("POST", name, "Transfer-Encoding: chunked")
                wires.append(head + _in_chunks(_body(rng, name), rng))
        sending = stage.tasks.spawn(_sent_in_parts(client, b"".join(wires), rng), name="sends")
        for n in range(8):
            await turns(rng.choice([0, 0, 5, 50]))
            response = await client.read_response()
            assert response.status == 200
            name = f"/{number}-{n}".encode()
            assert (
                response.body
                == (name * (len(response.body) // len(name) + 1))[: len(response.body)]
            )
        await sending
        client.close()

    await asyncio.gather(*(visit(number) for number in range(4)))
    await eventually(lambda: in_flight(lb) == [0])
    assert lb._context is not None
    assert len(lb._context.run_queue) == 0
    assert all(upstream.transport.is_reading() for upstream in lb._context.live.upstreams)
