"""Requests that a client sends before it has its answers: bounded, cheap, fair, each one right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.proxy.test_fairness import FULL_READ, HIGH_WATER, client_side, full, one_iteration, read
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.origin import answers
from tests.support.waiting import eventually, turns
from tests.support.websocket import SWITCH, WEBSOCKET

if TYPE_CHECKING:
    from tests.support.http_peer import AtOrigin, Message
    from tests.support.stage import Stage

pytestmark = pytest.mark.http1_only("pipelining")

MOST_HELD = 64 * 1024
LAST = b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


async def echo(connection: AtOrigin, message: Message) -> None:
    await connection.respond(message.head.target.encode() + b" " + message.body)


def chunked(target: str, body: bytes) -> bytes:
    return request("POST", target, CHUNKED) + body


@on_both_loops
@pytest.mark.parametrize("unit", [
    request("GET", "/"),
    request("POST", "/", body=b"x" * 100),
    chunked("/", b"64\r\n" + b"x" * 100 + b"\r\n" + LAST),
], ids=["get", "length", "chunked"])  # fmt: skip
async def test_what_is_held_is_bounded_at_every_moment(stage: Stage, unit: bytes) -> None:
    lb, client, origin = await stage.line()
    await client.send(unit)
    at_origin = await origin.accept()
    connection = client_side(lb)
    most = read_bytes = 0
    for _ in range(700):
        await at_origin.read_request()
        read_bytes += one_iteration(connection.transport, full(unit)) * len(full(unit))
        most = max(most, len(connection._held))
        await at_origin.respond()
        await client.read_response()
    assert most <= MOST_HELD + FULL_READ
    assert read_bytes <= 700 * len(unit) + most


@pytest.mark.parametrize("unit", [
    request("GET", "/"), request("POST", "/", body=b"x" * 50),
    chunked("/", b"5\r\nhello\r\n" + LAST),
], ids=["get", "length", "chunked"])  # fmt: skip
async def test_a_request_costs_no_copy_of_what_is_behind_it(stage: Stage, unit: bytes) -> None:
    lb, client, origin = await stage.line()
    await client.send(unit)
    at_origin = await origin.accept()
    connection = client_side(lb)
    await at_origin.read_request()
    read(connection.transport, unit * 100)
    held = connection._held
    for left in range(99, 0, -1):
        await at_origin.respond()
        await client.read_response()
        await at_origin.read_request()
        assert connection._held is held  # it was taken from the front
        assert len(held) == left * len(unit)


NEXT = request("GET", "/next")

# The bytes of one read, and the bodies of the answers.
BEHIND = {
    "a-get": (request("GET", "/a"), [b"/a "]),
    "a-length": (request("POST", "/a", body=b"hello"), [b"/a hello"]),
    "a-long-length": (request("POST", "/a", body=bytes(200_000)), [b"/a " + bytes(200_000)]),
    "chunks": (chunked("/a", b"5\r\nhello\r\n" + LAST), [b"/a hello"]),
    "trailers": (chunked("/a", b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"), [b"/a hello"]),
    "no-chunks": (chunked("/a", LAST), [b"/a "]),
    "a-chunk-like-an-end": (
        chunked("/a", b"a\r\n0\r\n\r\n0\r\n\r\n\r\n" + LAST), [b"/a 0\r\n\r\n0\r\n\r\n"],
    ),
    "many-chunks": (chunked("/a", b"1\r\na\r\n" * 3000 + LAST), [b"/a " + b"a" * 3000]),
    "chunks-twice": (
        chunked("/a", b"1\r\na\r\n" + LAST) + chunked("/b", b"1\r\nb\r\n0\r\nA: b\r\n\r\n"),
        [b"/a a", b"/b b"],
    ),
}  # fmt: skip


@on_both_loops
@pytest.mark.parametrize("how", ["at-once", "behind-another"])
@pytest.mark.parametrize("what", BEHIND)
async def test_what_is_behind_a_request_is_the_next_one(stage: Stage, what: str, how: str) -> None:
    wire, expected = BEHIND[what]
    _, client, _ = await stage.served(echo)
    if how == "behind-another":  # then it is taken from what is held
        wire, expected = request("GET", "/first") + wire, [b"/first ", *expected]
    await client.send((wire + NEXT) * 2)
    for body in (*expected, b"/next ") * 2:
        assert (await client.read_response()).body == body


async def test_a_body_that_is_not_all_held_goes_on_as_it_comes(stage: Stage) -> None:
    _, client, _ = await stage.served(echo)
    for body in (request("POST", "/a", body=b"hello"), chunked("/a", b"5\r\nhello\r\n" + LAST)):
        wire = request("GET", "/first") + body
        assert (await client.answer_to(wire[:-8])).body == b"/first "
        assert (await client.answer_to(wire[-8:] + NEXT)).body == b"/a hello"
        assert (await client.read_response()).body == b"/next "


async def test_behind_informational_responses(stage: Stage) -> None:
    async def hints(connection: AtOrigin, message: Message) -> None:
        await connection.send(b"HTTP/1.1 103 Hints\r\n\r\n")
        await echo(connection, message)

    _, client, _ = await stage.served(hints)
    got = [await client.answer_to(request("POST", "/a", body=b"x") + NEXT) for _ in range(4)]
    assert [each.status for each in got] == [103, 200, 103, 200]
    assert [each.body for each in got] == [b"", b"/a x", b"", b"/next "]


@pytest.mark.parametrize("body", [b"x" * 10, b"5\r\nhello\r\n"], ids=["length", "chunked"])
async def test_nothing_is_served_behind_an_early_answer(stage: Stage, body: bytes) -> None:
    _, client, origin = await stage.line()
    framing = CHUNKED if b"\r\n" in body else "Content-Length: 11"
    await client.send(request("POST", "/", framing) + body)
    at_origin = await origin.accept()
    await at_origin.read_head()
    await at_origin.respond(b"too much", status=413)
    assert (await client.read_response()).status == 413
    await client.send((LAST if framing == CHUNKED else b"x") + NEXT)
    assert await client.read_until_cut() == b""
    assert await origin.has_no_new_connection()


@pytest.mark.parametrize("how", ["at-once", "behind-another"])
async def test_what_is_behind_a_handshake_is_for_the_tunnel(stage: Stage, how: str) -> None:
    lb, client, origin = await stage.line()
    handshake = request("GET", "/chat", *WEBSOCKET)
    frames = full(b"frame")[:100_000]
    wire = handshake + frames
    await client.send((request("GET", "/first") if how == "behind-another" else b"") + wire)
    at_origin = await origin.accept()
    if how == "behind-another":
        assert (await at_origin.read_request()).head.target == "/first"
        await at_origin.respond()
        await client.read_response()
    assert (await at_origin.read_head()).target == "/chat"
    await at_origin.send(SWITCH)
    assert await at_origin.read_exactly(len(frames)) == frames
    await eventually(client_side(lb).transport.is_reading)
    await client.send(b"and more")
    assert await at_origin.read_exactly(8) == b"and more"


async def test_the_body_of_a_request_that_ends_here_is_no_request(stage: Stage) -> None:
    """OPTIONS whose hops are used up is answered here, before its body has been read."""
    _, client, _ = await stage.served(echo)
    answer = await client.answer_to(request("OPTIONS", "/", "Max-Forwards: 0", body=NEXT))
    assert (answer.status, answer.get("Connection")) == (200, client.closes)
    assert await client.read_until_cut() == b""


async def test_what_is_behind_the_last_request_is_read_and_thrown_away(stage: Stage) -> None:
    """Also if so much of it came before that the client was not read from."""
    lb, client, at_origin = await stage.asked("/", "Connection: close")
    connection = client_side(lb)
    read(connection.transport, full(NEXT))
    await turns()
    assert not connection.transport.is_reading()
    await at_origin.serves(client, b"the last")
    await eventually(connection.transport.is_reading)
    assert await client.read_until_cut() == b""


async def test_a_rate_limit_and_the_requests_behind_it(stage: Stage) -> None:
    limits = {"request_rate": 1, "request_burst": 1}
    _, client, _ = await stage.served(echo, limits=limits)
    statuses = [(await client.answer_to(request("GET", "/a") * 20)).status for _ in range(20)]
    assert set(statuses) <= {200, 429}
    assert statuses.count(429) >= 10


async def test_answers_of_our_own_wait_for_their_reader(stage: Stage) -> None:
    """No server is asked, so nothing else would hold such a client back."""
    lb = await stage.balancer(stage.nobody(), each=[{"down": True}])
    client = await stage.client(lb, receive_buffer=16_384)
    unit = request("GET", "/")
    await client.answer_to(unit)
    connection = client_side(lb)
    frontend = lb._plane.frontends[0]
    for _ in range(30_000):
        one_iteration(connection.transport, full(unit))
        await turns(1)
        if connection.is_writing_paused:
            break
    asked = frontend.counters.requests
    for _ in range(100):
        one_iteration(connection.transport, full(unit))
        await turns(1)
    assert frontend.counters.requests == asked
    assert not connection.transport.is_reading()
    assert len(connection._held) <= MOST_HELD + FULL_READ
    assert connection.transport.get_write_buffer_size() <= HIGH_WATER + 1024
    while not connection.transport.is_reading():  # and it goes on with them all
        assert (await client.read_response()).status == 503


@pytest.mark.parametrize("size", [100_000, 400_000])
async def test_a_head_longer_than_what_may_be_held_is_read_to_its_end(
    stage: Stage, size: int
) -> None:
    _, client, _ = await stage.served(echo, limits={"head_size": "512KiB"})
    long = request("GET", "/long", "X-Long: " + "x" * size)
    await client.send(request("GET", "/first"))
    assert (await client.answer_to(long)).body == b"/first "
    assert (await client.read_response()).body == b"/long "


async def test_a_client_that_pipelines_leaves_others_their_turn(stage: Stage) -> None:
    """One of its requests is served in each iteration, also those that are answered at once."""
    lb = await stage.balancer(stage.nobody(), each=[{"down": True}])
    client, other = await stage.client(lb), await stage.client(lb)
    await client.answer_to(request("GET", "/") * 2000)
    asked = lb._plane.frontends[0].counters.requests
    assert (await other.ask()).status == 503
    assert lb._plane.frontends[0].counters.requests - asked < 500


async def test_a_server_is_asked_for_each_in_turn(stage: Stage) -> None:
    _, client, _ = await stage.served(answers())
    await client.send(request("GET", "/") * 1000)
    for _ in range(1000):
        assert (await client.read_response()).body == b"ok"


async def test_a_request_that_comes_while_answers_wait_is_begun_when_they_are_read(
    stage: Stage,
) -> None:
    lb, client, _ = await stage.served(echo)
    assert (await client.ask("/first")).body == b"/first "
    connection = client_side(lb)
    connection.pause_writing()
    await client.get("/second")
    await eventually(lambda: len(connection._held) > 0)
    await turns(20)
    assert lb._plane.frontends[0].counters.requests == 1
    connection.resume_writing()
    assert (await client.read_response()).body == b"/second "
