"""What a server by HTTP/2 can do: each costs a bounded amount, and no other server's requests."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.http2.test_shared_connections import POST
from tests.http2.test_upstreams import H2, asked, line
from tests.support.http2_origin import http2_at
from tests.support.http_peer import Ended
from tests.support.stage import in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.http2_origin import Http2AtOrigin
    from tests.support.stage import Stage


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


STATUS_200 = b"\x88"
OK = [(":status", "200")]


MALFORMED = {
    "no :status": [("x", "1")],
    "an odd :status": [(":status", "2x0")],
    "a status of one digit": [(":status", "2")],
    "two of them": [*OK, (":status", "204")],
    "a late one": [("x", "1"), *OK],
    ":path": [*OK, (":path", "/")],
    "an upper-case name": [*OK, ("X-Upper", "1")],
    "Connection": [*OK, ("connection", "close")],
    "Transfer-Encoding": [*OK, ("transfer-encoding", "chunked")],
    "Upgrade": [*OK, ("upgrade", "h2c")],
    "LF in a value": [*OK, ("x-a", "1\nx-b: 2")],
    "CR LF in a value": [*OK, ("x-a", "1\r\nx-b: 2")],
    "NUL in a value": [*OK, ("x-a", "1\0")],
    "a colon in a name": [*OK, ("x-a:", "1")],
    "a blank in a name": [*OK, ("x a", "1")],
    "two lengths": [*OK, ("content-length", "1"), ("content-length", "2")],
    "an odd length": [*OK, ("content-length", "+1")],
    "a negative length": [*OK, ("content-length", "-1")],
    "a 101": [(":status", "101")],
    "many fields": [*OK, *[("x-a", "1")] * 200],
    "a long head": [*OK, *[("x-a", "v" * 4000)] * 20],
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_response_is_a_502_and_the_connection_goes_on(
    stage: Stage, case: str
) -> None:
    lb, client, at_origin, request = await asked(stage)
    block = at_origin.http2.encoder.encode(MALFORMED[case])
    pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    wire = frame(1, 0 if len(pieces) > 1 else 4, request.number, pieces[0])
    for n, piece in enumerate(pieces[1:], 2):
        wire += frame(9, 4 if n == len(pieces) else 0, request.number, piece)
    await at_origin.peer.send(wire)
    assert (await client.read_response()).status == 502
    await eventually(lambda: in_flight(lb) == [0])
    other = await stage.client(lb)
    await other.get("/other")
    its = await at_origin.request()
    await at_origin.respond(its, b"fine")
    assert (await other.read_response()).body == b"fine"


@pytest.mark.parametrize("case", ["too little", "too much", "nothing"])
async def test_a_body_that_disagrees_with_its_length(stage: Stage, case: str) -> None:
    lb, client, at_origin, request = await asked(stage)
    await at_origin.head(request, ("content-length", "5"), ends=case == "nothing")
    if case != "nothing":
        await at_origin.data(request, b"abc" if case == "too little" else b"abcdefgh", ends=True)
    with suppress(Ended):
        answer = await client.read_response()
        assert answer.status == 502
    await eventually(lambda: in_flight(lb) == [0])
    received = bytes(client.received)
    assert b"abcdef" not in received


BROKEN = {
    "garbage": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "DATA on stream 0": frame(0, 0, 0, b"x"),
    "a stream of the server's": frame(1, 5, 2, STATUS_200),
    "PUSH_PROMISE": frame(5, 4, 1, (2).to_bytes(4) + STATUS_200),
    "a frame that is too large": frame(0, 0, 1, b"x" * 20_000),
    "SETTINGS that are no settings": frame(4, 0, 0, b"x"),
    "a window of zero": frame(8, 0, 0, bytes(4)),
    "a window that overflows": frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a broken header block": frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
    "CONTINUATION without end": frame(1, 0, 1, STATUS_200) + frame(9, 0, 1, b"\x88") * 20,
    "an HPACK bomb": frame(1, 0, 1, STATUS_200 + b"\x40\x01a\x7f\xe1\x1e" + b"v" * 4000)
    + frame(9, 4, 1, b"\xbe" * 1000),
    "trailers without end": frame(1, 4, 1, STATUS_200)
    + frame(1, 1, 1, b"\x40\x01a\x01b")
    + frame(9, 0, 1, b"\xbe") * 20,
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_connection_ends_and_the_next_one_serves(stage: Stage, case: str) -> None:
    lb, client, at_origin, request = await asked(stage)
    origin = stage._origins[0]
    assert request.number == 1
    with suppress(OSError):
        await at_origin.peer.send(BROKEN[case])
    with suppress(Ended):
        answer = await client.read_response()
        assert answer.status == 502
    await at_origin.peer.read_until_cut()
    await eventually(lambda: in_flight(lb) == [0])
    assert not lb._context.live.shared
    other = await stage.client(lb)
    await other.get("/other")
    again = await http2_at(origin)
    await again.respond(await again.request(), b"fine")
    assert (await other.read_response()).body == b"fine"


FLOODS = {
    "PING": frame(6, 0, 0, bytes(8)),
    "SETTINGS": frame(4, 0, 0),
    "empty DATA": frame(0, 0, 1),
    "WINDOW_UPDATE": frame(8, 0, 0, bytes((0, 0, 0, 1))),
    "unknown frames": frame(77, 0, 0),
    "PRIORITY": frame(2, 0, 1, bytes((0, 0, 0, 3, 7))),
    "informational responses": frame(1, 4, 1, b"\x08\x03103"),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_delays_no_other_server(stage: Stage, kind: str) -> None:
    first, second = await stage.origin(), await stage.serving()
    lb = await stage.balancer(
        first,
        backend=H2,
        backends={"other": {"servers": [{"name": "o", "address": second.address}]}},
        frontend={"routes": [{"path_prefix": "/other", "backend": "other"}]},
    )
    client, other = await stage.client(lb), await stage.client(lb)
    await client.get("/")
    at_first = await http2_at(first)
    await at_first.request()
    if kind == "empty DATA":
        await at_first.peer.send(frame(1, 4, 1, STATUS_200))
    wave = FLOODS[kind] * (128 * 1024 // len(FLOODS[kind]))
    for _ in range(4):
        try:
            at_first.peer.sock.send(wave)
        except (BlockingIOError, ConnectionError):
            break
        assert (await other.ask("/other")).status == 200
    at_first.peer.abort()
    await client.read_until_cut() if kind == "empty DATA" else await client.read_response()
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_server_that_does_not_read_its_acknowledgements(stage: Stage) -> None:
    lb, client, origin = await line(stage, origin_buffer=4096)
    await client.get("/")
    at_origin = await http2_at(origin)
    await at_origin.request()
    sent = 0
    with suppress(OSError):
        sent = await at_origin.peer.send_until_stuck(FLOODS["PING"] * 1000, 64_000_000)
    assert sent < 20_000_000  # the kernel's buffers: the balancer reads no more
    at_origin.peer.abort()
    assert (await client.read_response()).status == 502
    await eventually(lambda: in_flight(lb) == [0])


async def test_a_server_that_goes_away_without_end(stage: Stage) -> None:
    """Each connection ends with a GOAWAY before its request: a bounded number of retries."""
    lb, client, origin = await line(stage)
    await client.send(POST)
    for _ in range(4):
        at_origin = await http2_at(origin)
        await at_origin.request()
        await at_origin.go_away(0)
    assert (await client.read_response()).status == 503
    await eventually(lambda: in_flight(lb) == [0])
    assert await origin.has_no_new_connection()


async def test_a_limit_that_is_lowered_below_the_running_streams(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(stage)
    origin = stage._origins[0]
    await at_origin.peer.send(frame(4, 0, 0, b"\x00\x03\x00\x00\x00\x01"))
    await eventually(lambda: next(iter(lb._context.live.shared))._most == 1)
    other = await stage.client(lb)
    await other.get("/other")
    second: Http2AtOrigin = await http2_at(origin)
    await second.respond(await second.request(), b"there")
    assert (await other.read_response()).body == b"there"
    await at_origin.respond(request, b"here")
    assert (await client.read_response()).body == b"here"
