"""Bodies both ways: they arrive whole, at once, and cost no more memory than they should."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.support.http_peer import (
    CHUNKED_POST,
    ENDLESS_POST,
    AtOrigin,
    Client,
    Ended,
    Message,
    request,
)
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, unsent
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.origin import Origin

EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
# A write buffer's high-water mark is 64 KiB, and one read on top of it may be 256 KiB.
BOUND = 512 * 1024


async def echo_body(connection: AtOrigin, message: Message) -> None:
    await connection.respond(message.body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# Requests.


@on_both_loops
@pytest.mark.parametrize("how", ["at once", "in pieces", "bytewise"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "DELETE"])
async def test_a_body_of_known_length_arrives(stage: Stage, how: str, method: str) -> None:
    _, client, _ = await stage.served(echo_body)
    wire = request(method, "/", body=b"0123456789")
    for _ in range(2):
        if how == "at once":
            await client.send(wire)
        elif how == "bytewise":
            await client.send_bytewise(wire)
        else:
            for start in range(0, len(wire), 7):
                await client.send(wire[start : start + 7])
                await turns()
        assert (await client.read_response()).body == b"0123456789"


@pytest.mark.http1_only("chunks")
@on_both_loops
@pytest.mark.parametrize("how", ["at once", "bytewise"])
async def test_a_chunked_body_arrives_without_extensions_and_trailers(
    stage: Stage, how: str
) -> None:
    _, client, origin = await stage.line()
    wire = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Secret\r\n\r\n"
        b'3;name="a b"\r\nabc\r\n00A\r\n0123456789\r\n0;last\r\nSecret: x\r\n\r\n'
    )
    await (client.send(wire) if how == "at once" else client.send_bytewise(wire))
    at_origin, message = await origin.accept_request()
    assert message.body == b"abc0123456789"
    assert message.get("Trailer") is None
    assert b"name" not in at_origin.received
    assert b"Secret" not in at_origin.received
    await at_origin.serves(client, b"ok")
    await at_origin.serves_the_next_of(client)


async def test_a_chunk_of_a_body_passes_before_the_next_one_comes(stage: Stage) -> None:
    _, client, at_origin = await stage.begun(CHUNKED_POST)
    for n in range(5):
        await client.send(chunk(b"part %d" % n))
        assert await at_origin.read_chunk() == b"part %d" % n
    await client.send(b"0\r\n\r\n")
    assert await at_origin.read_chunk() == b""
    await at_origin.serves(client, b"ok")


@on_both_loops
async def test_a_large_upload_waits_for_a_slow_server(stage: Stage) -> None:
    size = 64_000_000
    lb, client, at_origin = await stage.begun(
        f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode(),
        origin_buffer=16_384,
    )
    block = bytes(i * 7 % 251 for i in range(60_000))
    sent = await client.send_until_stuck(block, most=size)
    assert unsent(lb) < BOUND
    # It resumes, and not a byte is lost.
    assert await at_origin.read_exactly(sent) == (block * (sent // len(block) + 1))[:sent]
    await client.send(b"and on")
    assert await at_origin.read_exactly(6) == b"and on"


async def test_five_megabytes_arrive_unharmed(stage: Stage) -> None:
    body = bytes(i * 7 % 251 for i in range(5_000_000))
    _, client, _ = await stage.served(echo_body)
    sending = stage.tasks.spawn(client.send(request("POST", "/", body=body)), name="upload")
    answer = await client.read_response()
    await sending
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


# An answer before the upload has ended.


async def test_an_early_413_reaches_a_client_that_is_being_held_back(stage: Stage) -> None:
    _, client, at_origin = await stage.begun(ENDLESS_POST, origin_buffer=16_384)
    await client.send_until_stuck(b"x" * 65_536, most=64_000_000)
    await at_origin.respond(b"too large", status=413)
    assert (await client.read_response()).status == 413


@on_both_loops
async def test_both_directions_at_the_same_time(stage: Stage) -> None:
    lb, client, at_origin = await stage.begun(CHUNKED_POST)
    await at_origin.send(EVENT_STREAM)
    assert (await client.read_head()).get("Connection") == client.closes
    for n in range(3):
        await client.send(chunk(b"ping %d" % n))
        assert await at_origin.read_chunk() == b"ping %d" % n
        await at_origin.send(chunk(b"pong %d" % n))
        assert await client.read_chunk() == b"pong %d" % n
    await client.send(b"0\r\n\r\n")
    assert await at_origin.read_chunk() == b""
    await at_origin.send(b"0\r\n\r\n")
    assert await client.read_chunk() == b""
    assert await client.read_to_end() == b""
    assert (await stage.log_line(lb)).termination == "--"


async def test_a_server_that_closes_while_a_body_streams_in_cuts_the_response(
    stage: Stage,
) -> None:
    lb, client, at_origin = await stage.begun(CHUNKED_POST)
    await at_origin.send(EVENT_STREAM + chunk(b"one"))
    await client.read_until(b"one\r\n")
    at_origin.close()
    await client.send_until_refused(chunk(b"x" * 1000), most=10_000_000)
    assert await client.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "SD"


# Event streams.


@on_both_loops
@pytest.mark.parametrize("framing", ["chunked", "until close"])
async def test_an_event_passes_before_the_next_one_exists(stage: Stage, framing: str) -> None:
    lb, client, at_origin = await stage.asked()
    if framing == "chunked":
        await at_origin.send(EVENT_STREAM)
    else:
        await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    assert (await client.read_head()).get("Content-Type") == "text/event-stream"
    for n in range(20):
        event = b"data: %d\n\n" % n
        await at_origin.send(chunk(event) if framing == "chunked" else event)
        assert await client.read_chunk() == event
    assert in_flight(lb) == [1]
    if framing == "chunked":
        await at_origin.send(b"0\r\n\r\n")
    else:
        at_origin.close()
    assert await client.read_chunk() == b""
    await eventually(lambda: in_flight(lb) == [0])
    assert (await stage.log_line(lb)).termination == "--"


@on_both_loops
@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_client_that_leaves_a_stream_ends_it_at_the_server(
    stage: Stage, ending: str
) -> None:
    lb, client, at_origin = await stage.asked()
    await at_origin.send(EVENT_STREAM + chunk(b"data: 1\n\n"))
    await client.read_until(b"data: 1\n\n\r\n")
    getattr(client, ending)()
    assert await at_origin.read_until_cut() == b""
    assert in_flight(lb) == [0]
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("CD", 200)


async def test_a_client_that_leaves_between_two_events_of_a_busy_stream(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked()
    await at_origin.send(EVENT_STREAM)
    await client.read_head()
    client.abort()
    await at_origin.send_until_refused(chunk(b"data: 1\n\n"), most=100_000)
    await eventually(lambda: in_flight(lb) == [0])


@on_both_loops
async def test_a_slow_reader_holds_the_server_back_and_loses_nothing(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked(client_buffer=16_384)
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n")
    sent = await at_origin.send_until_stuck(b"0123456789" * 6000, most=64_000_000)
    assert unsent(lb) < BOUND
    assert in_flight(lb) == [1]
    await client.read_head()
    assert await client.read_exactly(sent) == (b"0123456789" * (sent // 10 + 1))[:sent]
    await at_origin.send(b"and on")
    assert await client.read_exactly(6) == b"and on"


@on_both_loops
async def test_a_stuck_reader_is_cut_after_its_timeout(stage: Stage) -> None:
    lb, _, at_origin = await stage.asked(
        timeouts={"client": 0.2, "server": 30}, client_buffer=16_384
    )
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n")
    await at_origin.send_until_refused(b"x" * 65_536)
    await eventually(lambda: in_flight(lb) == [0])
    assert (await stage.log_line(lb)).termination == "cD"


async def test_a_slow_but_living_reader_is_not_cut(stage: Stage) -> None:
    size = 30_000_000
    lb, client, at_origin = await stage.asked(
        timeouts={"client": 0.5, "server": 0.5}, client_buffer=16_384
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    sending = stage.tasks.spawn(at_origin.send(head + bytes(size)), name="download")
    await client.read_head()
    taken = 0
    for _ in range(15):  # 1.5 s, three times the timeouts
        await asyncio.sleep(0.1)
        taken += len(await client.read_exactly(1_500_000))
    while taken < size:
        taken += len(await client.read_some())
    await sending
    assert (await stage.log_line(lb)).termination == "--"


async def stuck_on_the_last_bytes(
    stage: Stage, lb: LoadBalancer, origin: Origin, wire: bytes
) -> Client:
    """A client whose response has left the server, but not all of it has left us."""
    client = await stage.client(lb, receive_buffer=16_384)
    await client.send(wire)
    at_origin = await origin.accept()
    await at_origin.read_head()
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while unsent(lb) < 20_000:  # fill the kernel, and our buffer up to its mark of 64 KiB
        await at_origin.send(chunk(bytes(16_000)))
        await turns()
    await at_origin.send(chunk(bytes(60_000)) + b"0\r\n\r\n")
    await eventually(lambda: unsent(lb) > 70_000)
    assert sum(in_flight(lb)) == 1
    return client


GET = request("GET", "/")


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
@on_both_loops
async def test_the_lease_lasts_until_the_last_byte_has_left(stage: Stage) -> None:
    """The server is done and its connection free, but the client has a part to read yet."""
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stuck_on_the_last_bytes(stage, lb, origin, GET)
    other = await stage.client(lb)
    await other.get("/other")
    message = await origin.connections[0].read_request()  # so that connection is free
    assert message.head.target == "/other"
    assert in_flight(lb) == [2]
    await origin.connections[0].serves(other, b"other")
    assert in_flight(lb) == [1]
    assert len((await client.read_response()).body) > 100_000
    await eventually(lambda: in_flight(lb) == [0])
    await client.get("/next")  # and it goes on
    await origin.connections[0].read_request()
    await origin.connections[0].serves(client, b"next")
    assert {line.termination for line in await stage.logged(lb, 3)} == {"--"}


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
@on_both_loops
async def test_a_reader_stuck_on_the_last_bytes_is_cut(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, timeouts={"client": 0.2, "server": 30})
    await stuck_on_the_last_bytes(stage, lb, origin, GET)
    await eventually(lambda: in_flight(lb) == [0])
    assert (await stage.log_line(lb)).termination == "cL"
    await eventually(lambda: lb._context is not None and not lb._context.live.clients)


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
async def test_a_client_that_leaves_during_the_last_bytes_is_let_go(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stuck_on_the_last_bytes(stage, lb, origin, GET)
    client.abort()
    assert (await stage.log_line(lb)).termination == "CL"
    assert in_flight(lb) == [0]


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
async def test_a_broken_body_behind_a_whole_response_adds_nothing_to_it(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stuck_on_the_last_bytes(stage, lb, origin, CHUNKED_POST)
    await client.send(b"nonsense\r\n")
    await turns(20)
    await client.read_until_cut()
    assert b"HTTP/1.1 400" not in client.received
    assert (await stage.log_line(lb)).status == 200


@pytest.mark.http1_only("the kernel is filled, which windows prevent: tests/http2")
async def test_many_slow_readers_cost_little_each(stage: Stage) -> None:
    async def flood(connection: AtOrigin, message: Message) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        while True:
            await connection.send(bytes(65_536))

    lb = await stage.balancer(await stage.serving(flood))
    clients = [await stage.client(lb, receive_buffer=16_384) for _ in range(10)]
    for client in clients:
        await client.get()
    for client in clients:
        await client.read_head()
    await eventually(lambda: all(c.is_writing_paused for c in lb._context.live.clients))  # type: ignore[union-attr]
    assert unsent(lb) < 10 * BOUND


@pytest.mark.http1_only("pipelining")
async def test_a_pipelined_client_that_does_not_read_is_held_back(stage: Stage) -> None:
    """Responses wait in its buffer; further requests are not started for it meanwhile."""

    async def large(connection: AtOrigin, message: Message) -> None:
        await connection.respond(bytes(1_000_000))

    origin = await stage.serving(large)
    lb = await stage.balancer(origin)
    client = await stage.client(lb, receive_buffer=16_384)
    await client.send(request("GET", "/") * 50)
    await eventually(lambda: any(c.is_writing_paused for c in lb._context.live.clients))  # type: ignore[union-attr]
    await turns(50)
    assert unsent(lb) < 2_000_000
    assert len(origin.requests) < 20
    for _ in range(50):
        assert len((await client.read_response()).body) == 1_000_000


# Ends that cross.


@on_both_loops
async def test_the_end_of_a_response_is_seen_while_an_upload_is_stuck(stage: Stage) -> None:
    """FIN ends the body, whether or not the server ever reads what we still hold for it."""
    _, client, at_origin = await stage.begun(ENDLESS_POST, origin_buffer=16_384)
    await client.send_until_stuck(b"x" * 65_536, most=64_000_000)
    await at_origin.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    at_origin.half_close()
    assert (await client.read_response()).body == b"all of it"


@on_both_loops
async def test_the_end_of_a_silent_server_is_seen_while_an_upload_is_stuck(stage: Stage) -> None:
    _, client, at_origin = await stage.begun(ENDLESS_POST, origin_buffer=16_384)
    await client.send_until_stuck(b"x" * 65_536, most=64_000_000)
    at_origin.half_close()
    assert (await client.read_response()).status == 502


async def test_a_connection_with_an_unsent_upload_is_not_used_again(stage: Stage) -> None:
    """The server has answered without reading: who knows when it will read the next request."""
    lb, client, origin = await stage.line(origin_buffer=16_384)
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    at_origin = await origin.accept()
    await at_origin.read_head()
    while unsent(lb) < 20_000:  # fill the kernel, and our buffer below its mark of 64 KiB
        await client.send(chunk(bytes(16_000)))
        await turns()
    await client.send(b"0\r\n\r\n")
    await turns(20)
    await at_origin.respond(b"enough")
    answer = await client.read_response()
    assert (answer.body, answer.get("Connection")) == (b"enough", None)
    await client.get("/next")
    next_at_origin, message = await origin.accept_request()
    assert message.head.target == "/next"
    await next_at_origin.serves(client, b"fine")


@on_both_loops
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_crosses_the_end_of_its_connection(stage: Stage, method: str) -> None:
    """The server closes right behind its response, and the next request is already there.

    If we don't know of the FIN yet, a GET is sent again, and a POST is not.
    """
    _, client, origin = await stage.line()
    await client.send(request("GET", "/1") + request(method, "/2", body=b"x"))
    at_origin, _ = await origin.accept_request()
    await at_origin.respond(b"one")
    at_origin.close()
    assert (await client.read_response()).body == b"one"
    origin.serve(echo_body)
    answer = await client.read_response()
    if method == "GET" or answer.status != 502:
        assert (answer.status, answer.body) == (200, b"x")
    assert len(origin.requests) == (answer.status == 200)


@pytest.mark.http1_only("HTTP/1.0")
@on_both_loops
async def test_an_http_1_0_client_that_only_stops_sending_sees_the_cut(stage: Stage) -> None:
    """It counts as having left, but it may still read: a clean end would be a lie to it."""
    _, client, at_origin = await stage.asked(version="1.0")
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    await client.read_until(b"one")
    client.half_close()
    await at_origin.read_until_cut()
    with pytest.raises(Ended, match="reset"):
        await client.read_to_end()
