"""Rows 8 to 12: chunked bodies. A malformed one never becomes a complete message upstream."""

from __future__ import annotations

import pytest

from tests.support.hostile import (
    BEHIND,
    Way,
    asking,
    deliver,
    echo,
    in_two_ways,
    is_passed,
    is_turned_away,
    read_until_cut,
    row,
)
from tests.support.http_peer import response
from tests.support.referees import is_whole
from tests.support.stage import Stage, in_flight, pool_of
from tests.support.waiting import eventually, turns

pytestmark = pytest.mark.http1_only("chunks")

POST = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = b"3\r\nabc\r\n"  # a valid chunk, before each of those below
LAST = b"0\r\n\r\n"

# What arrives behind a good chunk.
REFUSED = [
    # 8: sizes that `int(size, 16)` and its like in other languages would take.
    row(8, "plus", b"+5\r\nhello\r\n" + LAST),
    row(8, "minus-0", b"-0\r\n\r\n"),
    row(8, "0x", b"0x5\r\nhello\r\n" + LAST),
    row(8, "0x0", b"0x0\r\n\r\n"),
    row(8, "underscore", b"5_0\r\nhello\r\n" + LAST),
    row(8, "space-before", b" 5\r\nhello\r\n" + LAST),
    row(8, "space-behind", b"5 \r\nhello\r\n" + LAST),
    row(8, "tab-behind-0", b"0\t\r\n\r\n"),
    row(8, "empty", b"\r\nhello\r\n" + LAST),
    row(8, "17-digits", b"00000000000000005\r\nhello\r\n" + LAST),
    row(8, "2-to-64-and-5", b"10000000000000005\r\nhello\r\n" + LAST),
    row(8, "no-digit", b"xyz\r\nhello\r\n" + LAST),
    # 9: line ends that only some take for such.
    row(9, "lf-behind-the-size", b"5\nhello\r\n" + LAST),
    row(9, "cr-behind-the-size", b"5\rhello\r\n" + LAST),
    row(9, "cr-cr-lf-behind-the-size", b"5\r\r\nhello\r\n" + LAST),
    row(9, "lf-behind-the-data", b"5\r\nhello\n" + LAST),
    row(9, "cr-behind-the-data", b"5\r\nhello\r" + LAST),
    row(9, "nothing-behind-the-data", b"5\r\nhello" + LAST),
    row(9, "data-longer-than-its-size", b"5\r\nhello!!\r\n" + LAST),
    row(9, "lf-behind-the-last-size", b"0\n\r\n"),
    row(9, "lf-at-the-end", b"0\r\n\n"),
    row(9, "lf-everywhere", b"5\nhello\n0\n\n"),
    # 10: extensions that hide something, or cost too much.
    row(10, "lf", b"5;a\nb\r\nhello\r\n" + LAST),
    row(10, "lf-hides-a-chunk", b"2;\nxx\r\nab\r\n" + LAST),  # "TERM.EXT": where is its end?
    row(10, "cr", b"5;a\rb\r\nhello\r\n" + LAST),
    row(10, "nul", b"5;a\0\r\nhello\r\n" + LAST),
    row(10, "del-in-quotes", b'5;a="\x7f"\r\nhello\r\n' + LAST),
    row(10, "over-4-kib", b"5;" + b"a" * 4200 + b"\r\nhello\r\n" + LAST),
    row(10, "over-4-kib-without-an-end", b"5;" + b"a" * 4200),
    row(10, "no-name", b"5;\r\nhello\r\n" + LAST),
    row(10, "no-value", b"5;a=\r\nhello\r\n" + LAST),
    row(10, "open-quotes", b'5;a="b\r\nhello\r\n' + LAST),
    row(10, "blank-at-the-end", b"5;a \r\nhello\r\n" + LAST),
    row(10, "on-the-last-chunk", b"0;a\nb\r\n\r\n"),
    # 11: trailers that are no fields.
    row(11, "lf", b"0\r\nA: b\nC: d\r\n\r\n"),
    row(11, "folded", b"0\r\nA: b\r\n c\r\n\r\n"),
    row(11, "no-colon", b"0\r\nA\r\n\r\n"),
    row(11, "space-before-the-colon", b"0\r\nA : b\r\n\r\n"),
    row(11, "nul", b"0\r\nA: \0\r\n\r\n"),
    row(11, "a-request", b"0\r\n" + BEHIND),
    row(11, "over-8-kib", b"0\r\n" + b"A: b\r\n" * 1400 + b"\r\n"),
]


@pytest.mark.parametrize("wire", REFUSED)
async def test_a_refused_body_never_becomes_a_whole_one(
    stage: Stage, way: Way, wire: bytes
) -> None:
    """With its head in one segment it reaches no server; the request before it is cut off."""
    lb, client, origin = await stage.line()
    seen = b""
    if way is Way.BYTEWISE:
        await client.send(POST)
        at_origin = await origin.accept()
        head = await at_origin.read_head()
        assert head.get("Transfer-Encoding") == "chunked"
        await client.send_bytewise(GOOD)
        assert await at_origin.read_exactly(len(GOOD)) == GOOD
        await deliver(client, wire, way)
        seen = (await read_until_cut(origin, at_origin)).removeprefix(head.raw)
    else:
        await deliver(client, POST + GOOD + wire, way)
    await is_turned_away(client, 400)
    line = await stage.log_line(lb)
    assert (line.status, line.request) == (400, "POST /upload HTTP/1.1")
    assert line.reason
    if way is Way.BYTEWISE:
        assert (GOOD + wire).startswith(seen)
        assert not is_whole(seen)
        assert (line.termination, line.server) == ("PD", "agent1")
    else:
        assert await origin.has_no_new_connection()
        assert (line.termination, line.server) == ("PR", "<NOSRV>")
    assert in_flight(lb) == [0]


@pytest.mark.parametrize("wire", [
    row(8, "plus", b"+5\r\nhello\r\n" + LAST),
    row(9, "nothing-behind-the-data", b"5\r\nhello" + LAST),
    row(10, "lf", b"5;a\nb\r\nhello\r\n" + LAST),
    row(11, "a-request", b"0\r\n" + BEHIND),
])  # fmt: skip
async def test_a_body_that_breaks_while_it_is_answered_cuts_the_answer(
    stage: Stage, wire: bytes
) -> None:
    """A status has left already, so the end of the connection must say it."""
    lb, client, origin = await stage.line()
    await client.send(POST + GOOD)
    at_origin = await origin.accept()
    await at_origin.read_until(GOOD)
    await at_origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n")
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"some"
    await deliver(client, wire, Way.FOLLOWED)
    assert await client.read_until_cut() == b""  # no last chunk
    seen = await read_until_cut(origin, at_origin)
    assert not is_whole(seen.partition(b"\r\n\r\n")[2])
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (200, "PD")


@pytest.mark.row(8)
async def test_a_body_that_breaks_in_the_queue_leaves_it(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server={"max_connections": 1})
    first, second, third = await stage.clients(lb, 3)
    await first.get("/first")
    at_origin, _ = await origin.accept_request()
    await second.send(POST + GOOD)
    await eventually(lambda: pool_of(lb).waiting)
    await third.get("/third")
    await eventually(lambda: len(pool_of(lb).waiting) == 2)
    answer = await second.answer_to(b"+5\r\nhello\r\n" + LAST + BEHIND)
    assert (answer.status, answer.get("Connection")) == (400, "close")
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (400, "PD", "<NOSRV>")
    assert len(pool_of(lb).waiting) == 1
    await at_origin.serves(first, b"first")
    assert (await at_origin.read_request()).head.target == "/third"
    await at_origin.serves(third, b"third")
    assert await origin.has_no_new_connection()


UPLOAD = "POST /upload HTTP/1.1"
HELLO = b"5\r\nhello\r\n" + LAST
KEPT = {"Transfer-Encoding": "chunked", "Content-Length": None}
DROPPED = {
    **KEPT, "Host": "a", "Authorization": None, "Cookie": None, "Trailer": None, "X-Sum": None,
}  # fmt: skip

# What arrives behind the head; the body on the wire to the origin, and fields of its head.
PASSED = [
    row(8, "odd-case-and-zeros", b"A\r\n0123456789\r\n00a\r\n0123456789\r\n" + LAST,
        b"A\r\n0123456789\r\n00a\r\n0123456789\r\n" + LAST, KEPT),
    row(9, "data-that-looks-like-an-end", b"7\r\n\r\n0\r\n\r\n\r\n" + LAST,
        b"7\r\n\r\n0\r\n\r\n\r\n" + LAST, KEPT),
    # 10: extensions are unused, and the next hop might misread them.
    row(10, "name", b"5;a\r\nhello\r\n" + LAST, HELLO, KEPT),
    row(10, "value-in-quotes", b'5;a="b;\t\xff";c=d\r\nhello\r\n0;e\r\n\r\n', HELLO, KEPT),
    row(10, "blanks", b"5 ;a\t= b ; c\r\nhello\r\n0\t;d\r\n\r\n", HELLO, KEPT),
    row(10, "4-kib", b"5;%b\r\nhello\r\n" % (b"a" * 4096) + LAST, HELLO, KEPT),
    # 11: a trailer must not become what the head did not say.
    row(11, "framing", b"5\r\nhello\r\n0\r\nContent-Length: 0\r\nTransfer-Encoding: gzip\r\n\r\n",
        HELLO, DROPPED),
    row(11, "host", b"5\r\nhello\r\n0\r\nHost: evil\r\n\r\n", HELLO, DROPPED),
    row(11, "credentials",
        b"5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\nCookie: a=b\r\nX-Sum: 1\r\n\r\n", HELLO,
        DROPPED),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "body", "fields"), PASSED)
async def test_passed(
    stage: Stage, way: Way, wire: bytes, body: bytes, fields: dict[str, str | None]
) -> None:
    origin = await is_passed(stage, way, POST + wire, UPLOAD, fields)
    seen = bytes(origin.connections[0].received).removeprefix(origin.requests[0].head.raw)
    if way is Way.FOLLOWED:
        assert seen.startswith(body + b"GET /smuggled HTTP/1.1\r\n")
    else:
        assert seen == body


@pytest.mark.row(11)
@in_two_ways
async def test_trailers_of_a_response_are_dropped(stage: Stage, way: Way) -> None:
    _, _, client, at_origin = await asking(stage)
    chunks = b"5;a=b\r\nhello\r\n0\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n"
    await deliver(at_origin, head + chunks, way)
    answer = await client.read_response()
    assert answer.body == b"hello"
    assert [answer.get(name) for name in ("Set-Cookie", "Content-Length", "Trailer")] == [None] * 3
    assert await client.gets_nothing()
    await at_origin.serves_the_next_of(client)  # and both connections go on


# 12: the client ends, its request does not.

LENGTH = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"

UNFINISHED = [
    row(12, "no-byte-of-a-length", LENGTH, b""),
    row(12, "one-byte-less", LENGTH, b"hell"),
    row(12, "no-chunk", POST, b""),
    row(12, "in-a-size", POST, GOOD + b"5"),
    row(12, "behind-a-size", POST, GOOD + b"5\r\n"),
    row(12, "in-a-chunk", POST, GOOD + b"5\r\nhel"),
    row(12, "before-the-end-of-a-chunk", POST, GOOD + b"5\r\nhello"),
    row(12, "between-chunks", POST, GOOD),
    row(12, "in-the-last-chunk", POST, GOOD + b"0\r\n"),
    row(12, "in-the-trailers", POST, GOOD + b"0\r\nA: b\r\n"),
]


@pytest.mark.parametrize("how", ["half_close", "close", "abort"])
@in_two_ways
@pytest.mark.parametrize(("head", "body"), UNFINISHED)
async def test_an_unfinished_body_is_unfinished_upstream_too(
    stage: Stage, head: bytes, body: bytes, way: Way, how: str
) -> None:
    lb, client, origin = await stage.line()
    await deliver(client, head + body, way)
    at_origin = await origin.accept()
    forwarded = await at_origin.read_head()
    await turns()
    getattr(client, how)()
    seen = (await read_until_cut(origin, at_origin)).removeprefix(forwarded.raw)
    assert body.startswith(seen)
    assert not is_whole(seen)
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (-1, "CH", "agent1")
    assert in_flight(lb) == [0]


@pytest.mark.row(12)
async def test_a_client_that_ends_behind_its_body_sent_a_whole_request(stage: Stage) -> None:
    """The same bytes and one more: what was cut above is complete here."""
    lb, client, origin = await stage.line()
    await client.send(POST + GOOD + LAST)
    at_origin, message = await origin.accept_request()
    assert message.body == b"abc"
    await at_origin.send(response(b"fine"))
    assert (await client.read_response()).body == b"fine"
    client.half_close()
    assert await client.read_to_end() == b""
    assert (await stage.log_line(lb)).termination == "--"


@pytest.mark.row(8)
async def test_a_good_body_behind_a_refused_one_is_another_connections_matter(
    stage: Stage,
) -> None:
    """Nothing of a refused body is left in what serves all clients."""
    origin = await stage.serving(echo)
    lb = await stage.balancer(origin)
    bad, good = await stage.clients(lb, 2)
    await bad.send(POST + b"5")
    assert (await good.answer_to(POST + HELLO)).body == b"POST /upload"
    assert (await bad.answer_to(b"_")).status == 400
    assert (await good.answer_to(POST + HELLO)).body == b"POST /upload"
    assert [message.body for message in origin.requests] == [b"hello", b"hello"]
