"""Row 28: bytes behind a response. They must never become the next client's response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import Way, answers_the_next_one, asking, deliver, in_two_ways, row
from tests.support.http_peer import request
from tests.support.stage import Stage, server_of
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer

OK = b"HTTP/1.1 200 OK\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

# The method, a whole response, what of its body the client gets.
RESPONSES = [
    row(28, "length", "GET", OK + b"Content-Length: 2\r\n\r\nok", b"ok"),
    row(28, "length-0", "GET", OK + b"Content-Length: 0\r\n\r\n", b""),
    row(28, "chunked", "GET", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok"),
    row(28, "trailers", "GET", OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", b""),
    row(28, "head", "HEAD", OK + b"Content-Length: 4\r\n\r\n", b""),
    row(28, "head-chunked", "HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", b""),
    row(28, "head-without-framing", "HEAD", OK + b"\r\n", b""),
    row(28, "204", "GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    row(28, "204-with-a-length", "GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
        b""),
    row(28, "304", "GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", b""),
    row(28, "304-with-a-length", "GET",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", b""),
]  # fmt: skip

# Bytes after it. To HEAD, 204 and 304 they may be a body.
BEHIND = [
    row(28, "a-response", EVIL),
    row(28, "four-bytes", b"evil"),
    row(28, "an-empty-line", b"\r\n"),
    row(28, "chunks", b"4\r\nevil\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(("method", "wire", "body"), RESPONSES)
@in_two_ways
async def test_bytes_behind_a_response_are_dropped_with_their_connection(
    stage: Stage, way: Way, method: str, wire: bytes, body: bytes, behind: bytes
) -> None:
    origin, lb, client, at_origin = await asking(stage, request(method, "/1"))
    await deliver(at_origin, wire + behind, way)
    answer = await client.read_response(method=method)
    assert (answer.status, answer.body) == (int(wire.split(b" ")[1]), body)
    assert await at_origin.read_until_cut() == b""
    assert await client.gets_nothing()
    await client.get("/next")
    await answers_the_next_one(client, origin)
    assert [line.termination for line in await stage.logged(lb, 2)] == ["--", "--"]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(("method", "wire", "body"), RESPONSES)
async def test_a_request_that_waits_behind_is_not_answered_by_such_bytes(
    stage: Stage, method: str, wire: bytes, body: bytes, behind: bytes
) -> None:
    origin, _, client, at_origin = await asking(
        stage, request(method, "/1") + request("GET", "/next")
    )
    await at_origin.send(wire + behind)
    assert (await client.read_response(method=method)).body == body
    assert await at_origin.read_until_cut() == b""
    await answers_the_next_one(client, origin)


@pytest.mark.parametrize(("first", "rest"), [
    row(28, "length", OK + b"Content-Length: 4\r\n\r\nok", b"ay"),
    row(28, "chunked", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nok", b"ay\r\n0\r\n\r\n"),
    row(28, "trailers", OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nokay\r\n0\r\nA: b",
        b"\r\n\r\n"),
])  # fmt: skip
async def test_bytes_behind_the_last_part_of_a_body_are_dropped_too(
    stage: Stage, first: bytes, rest: bytes
) -> None:
    origin, _, client, at_origin = await asking(
        stage, request("GET", "/1") + request("GET", "/next")
    )
    await at_origin.send(first)
    head = await client.read_head()
    await at_origin.send(rest + EVIL)
    assert await client.read_body(head) == b"okay"
    assert await at_origin.read_until_cut() == b""
    await answers_the_next_one(client, origin)


@pytest.mark.parametrize(("method", "wire"), [
    row(28, "head", "HEAD", OK + b"Content-Length: 4\r\n\r\n"),
    row(28, "head-chunked", "HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    row(28, "204", "GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n"),
    row(28, "304", "GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
])  # fmt: skip
async def test_a_body_that_is_announced_and_must_not_come_may_come_late(
    stage: Stage, method: str, wire: bytes
) -> None:
    """By then the next request could be on its way, so it has to go another way."""
    origin, _, client, at_origin = await asking(
        stage, request(method, "/1") + request("GET", "/next")
    )
    await at_origin.send(wire)
    assert (await client.read_response(method=method)).body == b""
    fresh, seen = await origin.accept_request()
    assert seen.head.target == "/next"
    await deliver(at_origin, EVIL, Way.WHOLE)
    assert await at_origin.read_until_cut() == b""
    await fresh.serves(client, b"right")


@pytest.mark.row(28)
@pytest.mark.parametrize("late", [EVIL, b"\r\n", b"\r"], ids=["a-response", "crlf", "cr"])
async def test_late_bytes_on_an_idle_connection_reach_nobody(stage: Stage, late: bytes) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    one, two = await stage.clients(lb, 2)
    await one.get("/1")
    at_origin, _ = await origin.accept_request()
    await at_origin.serves(one, b"one")
    await at_origin.send(late)
    await eventually(lambda: not _upstreams(lb))
    await two.get("/next")
    await answers_the_next_one(two, origin)
    assert await one.gets_nothing()


def _upstreams(lb: LoadBalancer) -> int:
    assert lb._context is not None
    return len(lb._context.live.upstreams)


# An empty line behind a body that comes so late that the next request is on its way already. It is
# no part of any response: one is forgiven, as before a request line.


@pytest.mark.row(28)
@in_two_ways
async def test_an_empty_line_before_a_response_is_forgiven(stage: Stage, way: Way) -> None:
    origin, _, client, at_origin = await asking(stage, request("GET", "/1"))
    await at_origin.serves(client, b"one")
    for n in (2, 3):
        await client.get(f"/{n}")
        assert (await at_origin.read_request()).head.target == f"/{n}"
        await at_origin.send(b"\r\n")
        await turns()
        interim = b"HTTP/1.1 100 Continue\r\n\r\n\r\n" if n == 3 else b""
        await deliver(at_origin, interim + OK + b"Content-Length: 2\r\n\r\nok", way)
        if interim:
            assert (await client.read_head()).start.startswith("HTTP/1.1 100")
        answer = await client.read_response()
        assert (answer.status, answer.body) == (200, b"ok")
    await client.get("/4")  # the connection is as good as before
    assert (await at_origin.read_request()).head.target == "/4"
    await at_origin.send(b"\r\n")
    await turns()
    await at_origin.send(b"\r\n")  # but not more than one
    assert (await client.read_response()).status == 502
    assert await at_origin.read_until_cut() == b""
    await client.get("/next")
    await answers_the_next_one(client, origin)


@pytest.mark.row(28)
@pytest.mark.parametrize("line", [b"\r\n", b"\r"])
async def test_an_empty_line_does_not_show_that_a_request_was_executed(
    stage: Stage, line: bytes
) -> None:
    """The server closes a connection that was idle: what may be repeated is."""
    origin, lb, client, at_origin = await asking(stage, request("GET", "/1"))
    await at_origin.serves(client, b"one")
    await client.get("/next")
    assert (await at_origin.read_request()).head.target == "/next"
    await at_origin.send(line)
    await turns()
    at_origin.close()
    await answers_the_next_one(client, origin)
    assert [(line.status, line.retries) for line in await stage.logged(lb, 2)] == [
        (200, "0"), (200, "1"),
    ]  # fmt: skip
    assert server_of(lb).fails == 0


@pytest.mark.row(28)
async def test_a_fresh_connection_that_says_an_empty_line_and_closes_has_not_answered(
    stage: Stage,
) -> None:
    _, lb, client, at_origin = await asking(stage, request("POST", "/1", body=b"x"))
    await at_origin.send(b"\r\n")
    await turns()
    at_origin.close()
    assert (await client.read_response()).status == 502
    line = await stage.log_line(lb)
    assert (line.termination, line.reason) == ("SH", "agent1 closed without a response")
