"""Rows 26 and 27: responses that can be read in two ways, or are not whole."""

from __future__ import annotations

import pytest

from tests.support.hostile import Way, answers_the_next_one, asking, deliver, in_two_ways, row
from tests.support.http_peer import Ended
from tests.support.stage import Stage, in_flight, server_of
from tests.support.waiting import turns

OK = b"HTTP/1.1 200 OK\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

BAD = [
    # 26: the framing.
    row(26, "length-and-coding",
        OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    row(26, "coding-and-length",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 99\r\n\r\n0\r\n\r\n" + EVIL),
    row(26, "lengths-that-differ", OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
    row(26, "lengths-that-agree", OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
    row(26, "lengths-in-a-list", OK + b"Content-Length: 4, 4\r\n\r\nabcd"),
    row(26, "length-plus", OK + b"Content-Length: +4\r\n\r\nabcd"),
    row(26, "length-minus", OK + b"Content-Length: -4\r\n\r\nabcd"),
    row(26, "length-hex", OK + b"Content-Length: 0x4\r\n\r\nabcd"),
    row(26, "length-2-to-64", OK + b"Content-Length: 18446744073709551616\r\n\r\nabcd"),
    row(26, "length-empty", OK + b"Content-Length:\r\n\r\nabcd"),
    row(26, "unknown-coding", OK + b"Transfer-Encoding: gzip\r\n\r\nabcd"),
    row(26, "unknown-coding-first", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    row(26, "chunked-twice", OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    row(26, "codings-in-two-lines",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    row(26, "coding-of-http-1.0",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    # 26: the first line.
    row(26, "garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    row(26, "ssh", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    row(26, "a-request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    row(26, "http-2", b"HTTP/2 200 OK\r\n\r\n"),
    row(26, "lower-case", b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    row(26, "status-of-two-digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    row(26, "status-of-four-digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
    row(26, "status-999", b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"),
    row(26, "status-0", b"HTTP/1.1 000 What\r\nContent-Length: 0\r\n\r\n"),
    row(26, "status-no-number", b"HTTP/1.1 OK 200\r\nContent-Length: 0\r\n\r\n"),
    row(26, "escape-in-the-reason", b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 0\r\n\r\n"),
    # 26: the fields.
    row(26, "nul", OK + b"Content-Length: 0\r\nA: b\0c\r\n\r\n"),
    row(26, "fold", OK + b"A: b\r\n Content-Length: 0\r\n\r\n"),
    row(26, "no-colon", OK + b"Content-Length: 0\r\nA\r\n\r\n"),
    row(26, "space-before-the-colon", OK + b"Content-Length : 0\r\n\r\n"),
    row(26, "bare-cr", OK + b"A: b\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n"),
    row(26, "bare-lf", OK + b"A: b\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n"),
    row(26, "too-large", OK + b"A: " + b"b" * 2048 + b"\r\n\r\n"),
    row(26, "too-large-without-an-end", OK + b"A: " + b"b" * 2048),
    row(26, "eleven-fields", OK + b"A: b\r\n" * 11 + b"\r\n"),
]  # fmt: skip


@pytest.mark.parametrize("wire", BAD)
@in_two_ways
async def test_a_bad_response_is_502(stage: Stage, way: Way, wire: bytes) -> None:
    """... and the end of its connection, but not of the client's."""
    origin = await stage.origin()
    other = await stage.serving()  # nothing is repeated there: the request was executed
    lb = await stage.balancer(
        origin,
        other,
        each=[{}, {"backup": True}],
        limits={"head_size": 2048, "header_count": 10},
    )
    client = await stage.client(lb)
    await client.get("/1")
    at_origin, _ = await origin.accept_request()
    await deliver(at_origin, wire, way)
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (502, client.keeps)
    assert b"evil" not in bytes(client.received)
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (502, "PH", "agent1")
    assert line.reason
    assert (server_of(lb).fails, in_flight(lb)) == (1, [0, 0])
    assert other.requests == []
    await client.get("/next")
    await answers_the_next_one(client, origin)


@pytest.mark.row(26)
async def test_a_client_of_a_bad_response_does_not_learn_what_it_was(stage: Stage) -> None:
    _, _, client, at_origin = await asking(stage)
    await at_origin.send(b"HTTP/1.1 200 OK\r\nX-Secret: 1\r\nContent-Length: 4, 4\r\n\r\nabcd")
    answer = await client.read_response()
    assert answer.status == 502
    assert not any(
        word in answer.head.raw + answer.body for word in (b"Secret", b"agent1", b"abcd")
    )


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# What arrives before the end of the connection, and what of the body the client gets.
SHORT = [
    row(27, "no-byte-of-a-length", OK + b"Content-Length: 9\r\n\r\n", b""),
    row(27, "one-byte-less", OK + b"Content-Length: 4\r\n\r\nabc", b"abc"),
    row(27, "no-chunk", CHUNKED, b""),
    row(27, "in-a-size", CHUNKED + b"3\r\nabc\r\n5", b"3\r\nabc\r\n"),
    row(27, "in-a-chunk", CHUNKED + b"9\r\nabc", b"9\r\nabc"),
    row(27, "between-chunks", CHUNKED + b"3\r\nabc\r\n", b"3\r\nabc\r\n"),
    row(27, "in-the-last-size", CHUNKED + b"3\r\nabc\r\n0", b"3\r\nabc\r\n"),
    row(27, "in-the-last-chunk", CHUNKED + b"3\r\nabc\r\n0\r\n", b"3\r\nabc\r\n"),
    row(27, "in-the-trailers", CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n", b"3\r\nabc\r\n"),
]  # fmt: skip


@pytest.mark.http1_only("chunks")
@pytest.mark.parametrize("ending", ["close", "abort"])
@in_two_ways
@pytest.mark.parametrize(("wire", "body"), SHORT)
async def test_a_short_body_is_visibly_cut(
    stage: Stage, wire: bytes, body: bytes, way: Way, ending: str
) -> None:
    _, lb, client, at_origin = await asking(stage)
    await deliver(at_origin, wire, way)
    await client.read_head()
    got = await client.read_exactly(len(body))
    await turns()
    getattr(at_origin, ending)()
    assert got + await client.read_until_cut() == body  # never a last chunk, nor a byte too many
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (200, "SD", "agent1")
    assert line.reason
    assert in_flight(lb) == [0]
    assert server_of(lb).counters.aborted_by_server == 1


@pytest.mark.http1_only("chunks")
@pytest.mark.parametrize("wire", [
    row(27, "size-plus", b"+5\r\nhello\r\n0\r\n\r\n"),
    row(27, "size-0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    row(27, "size-of-17-digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
    row(27, "lf-behind-a-size", b"5\nhello\n0\n\n"),
    row(27, "nothing-behind-a-chunk", b"5\r\nhello0\r\n\r\n"),
    row(27, "lf-in-an-extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    row(27, "bad-trailers", b"0\r\nA b\r\n\r\n"),
])  # fmt: skip
@in_two_ways
async def test_broken_chunks_are_visibly_cut(stage: Stage, way: Way, wire: bytes) -> None:
    _, lb, client, at_origin = await asking(stage)
    await deliver(at_origin, CHUNKED + b"3\r\nabc\r\n" + wire, way)
    await client.read_head()
    body = await client.read_until_cut()
    assert b"3\r\nabc\r\n5\r\nhello".startswith(body)
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (200, "SD")
    assert line.reason


@pytest.mark.http1_only("HTTP/1.0")
@pytest.mark.row(27)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_reset_is_not_the_end_of_a_body_until_close(stage: Stage, version: str) -> None:
    lb, client, at_origin = await stage.asked(version=version)
    await at_origin.send(OK + b"\r\nsome")
    await client.read_until(b"some")
    at_origin.abort()
    if version == "1.0":
        with pytest.raises(Ended, match="reset"):
            await client.read_to_end()
    else:
        assert await client.read_until_cut() in (b"", b"\r\n")  # the end of its chunk
    assert (await stage.log_line(lb)).termination == "SD"


@pytest.mark.http1_only("pipelining")
@pytest.mark.row(27)
async def test_what_is_pipelined_behind_a_cut_is_not_served(stage: Stage) -> None:
    _, client, origin = await stage.line()
    await client.get("/1")
    await client.get("/2")
    at_origin, _ = await origin.accept_request()
    await at_origin.send(OK + b"Content-Length: 9\r\n\r\nabc")
    await client.read_until(b"abc")
    at_origin.close()
    assert await client.read_until_cut() == b""
    assert await origin.has_no_new_connection()
