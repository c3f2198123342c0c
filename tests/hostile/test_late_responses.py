"""Rows 29 and 30: too many interim responses, final ones before their time, and none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import (
    Way,
    answers_the_next_one,
    asking,
    deliver,
    in_two_ways,
    read_until_cut,
    row,
)
from tests.support.referees import is_whole
from tests.support.stage import Stage, in_flight
from tests.support.waiting import turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client
    from tests.support.origin import Origin

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"


@pytest.mark.row(29)
@in_two_ways
async def test_32_informational_responses_are_relayed(stage: Stage, way: Way) -> None:
    _, lb, client, at_origin = await asking(stage)
    await deliver(at_origin, HINT * 32 + DONE, way)
    for _ in range(32):
        hint = await client.read_response()
        assert (hint.status, hint.get("Link")) == (103, "</a>")
    assert (await client.read_response()).body == b"done"
    assert (await stage.log_line(lb)).status == 200


@pytest.mark.row(29)
@in_two_ways
@pytest.mark.parametrize("more", [1, 1000])
async def test_more_than_32_informational_responses_are_502(
    stage: Stage, way: Way, more: int
) -> None:
    origin, lb, client, at_origin = await asking(stage)
    await deliver(at_origin, HINT * 32, way)
    await deliver(at_origin, HINT * more, Way.WHOLE)
    for _ in range(32):
        assert (await client.read_response()).status == 103
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (502, client.keeps)
    assert await at_origin.read_until_cut() == b""
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (502, "PH")
    assert "informational" in line.reason
    await client.get("/next")
    await answers_the_next_one(client, origin)


# 29: the answer comes before the end of the upload.

LENGTH = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhello"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
MORE_CHUNKS = b"2710\r\n" + b"x" * 10_000 + b"\r\n"

UPLOADS = [
    row(29, "length", LENGTH, b"x" * 10_000),
    row(29, "chunked", CHUNKED, MORE_CHUNKS),
]


async def goes_on(client: Client, more: bytes) -> None:
    """It continues, as if it had not been asked to stop."""
    for _ in range(20):
        await client.send(more)
        await turns()


async def uploading(stage: Stage, wire: bytes) -> tuple[Origin, LoadBalancer, Client, AtOrigin]:
    """The begin of an upload is at its origin, which has said nothing yet."""
    lb, client, origin = await stage.line()
    await client.send(wire)
    at_origin = await origin.accept()
    await at_origin.read_until(b"hello")
    return origin, lb, client, at_origin


@pytest.mark.http1_only("a reset ends the upload: tests/http2/test_requests.py")
@pytest.mark.parametrize(("wire", "more"), UPLOADS)
async def test_an_early_answer_ends_the_upload(stage: Stage, wire: bytes, more: bytes) -> None:
    """It is relayed at once, the rest is read and thrown away, and the end is clean.

    To close at once could make the kernel discard the answer (RFC 9112 sections 9.3 and 9.6).
    """
    origin, lb, client, at_origin = await uploading(stage, wire)
    await at_origin.respond(b"no room", status=507)
    await goes_on(client, more)
    answer = await client.read_response()
    assert (answer.status, answer.body) == (507, b"no room")
    assert answer.get("Connection") == client.closes
    assert await client.read_to_end() == b""
    seen = (await read_until_cut(origin, at_origin)).partition(b"\r\n\r\n")[2]
    assert len(seen) < 1_000_000
    assert not is_whole(seen)
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (507, "--")
    assert in_flight(lb) == [0]


@pytest.mark.http1_only("its window holds it back: tests/http2/test_requests.py")
@pytest.mark.parametrize(("wire", "more"), UPLOADS)
async def test_an_upload_stops_with_the_head_of_an_early_refusal(
    stage: Stage, wire: bytes, more: bytes
) -> None:
    """... while its body is still on its way."""
    _, _, client, at_origin = await uploading(stage, wire)
    await at_origin.send(b"HTTP/1.1 507 No\r\nContent-Length: 7\r\n\r\nno ")
    await client.read_until(b"no ")
    told = len(at_origin.received)
    await goes_on(client, more)
    await at_origin.send(b"room")
    assert await client.read_to_end() == b"room"
    await at_origin.read_until_cut()
    assert len(at_origin.received) <= told + len(b"\r\n")


async def test_a_client_that_writes_all_before_it_reads_gets_an_early_answer(stage: Stage) -> None:
    """Most HTTP libraries do so. A reset in mid-upload would be all that they see."""
    size = 14_000_000  # more than both kernels hold
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    _, _, client, at_origin = await uploading(stage, head + b"hello")
    await at_origin.respond(b"too large", "Connection: close", status=413)
    at_origin.close()
    answer = await client.answer_to(b"x" * (size - len(b"hello")))
    assert (answer.status, answer.body) == (413, b"too large")
    assert await client.read_to_end() == b""


@pytest.mark.parametrize(("wire", "more"), UPLOADS)
async def test_an_answered_client_that_never_stops_is_not_listened_to_for_ever(
    stage: Stage, wire: bytes, more: bytes
) -> None:
    _, _, client, at_origin = await uploading(stage, wire)
    await at_origin.respond(b"no", status=403)
    await client.send_until_refused(more, most=20_000_000)


@pytest.mark.row(29)
async def test_an_early_answer_and_a_body_that_ends_after_it(stage: Stage) -> None:
    """An answer of success may come first, and the upload goes on beside it."""
    _, _, client, at_origin = await uploading(stage, CHUNKED)
    await at_origin.read_until(b"\r\n")
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    assert (await client.read_until(b"half")).endswith(b"half")
    await client.send(b"5\r\nworld\r\n0\r\n\r\n")
    assert await at_origin.read_until(b"0\r\n\r\n") == b"5\r\nworld\r\n0\r\n\r\n"
    await at_origin.send(b"done")
    assert await client.read_to_end() == b"done"  # closed: whose bytes would come next?


# 30: nothing comes.

SILENCE = [
    row(30, "not-a-byte", b""),
    row(30, "a-part-of-a-head", b"HTTP/1.1 200 OK\r\nContent-Le"),
    row(30, "only-an-interim-response", HINT),
    row(30, "a-part-of-a-head-behind-one", HINT + b"HTTP/1.1 2"),
]


@pytest.mark.parametrize("wire", SILENCE)
async def test_a_silent_server_is_504(stage: Stage, wire: bytes) -> None:
    origin, lb, client, at_origin = await asking(stage, timeouts={"server": 0.3})
    await at_origin.send(wire)
    answer = await client.read_response()
    if wire.startswith(HINT):
        assert answer.status == 103
        answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (504, client.keeps)
    assert await at_origin.read_until_cut() == b""  # it need not work on
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (504, "sH", "agent1")
    assert line.reason
    await client.get("/next")  # late bytes of the first can't be its answer
    await answers_the_next_one(client, origin)


@pytest.mark.row(30)
@pytest.mark.parametrize("body", [None, b"hello"], ids=["get", "post"])
async def test_no_server_is_503_and_says_when_to_come_again(
    stage: Stage, body: bytes | None
) -> None:
    lb = await stage.balancer(stage.nobody(), server={"down": True})
    client = await stage.client(lb)
    await (client.get() if body is None else client.post(body))
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (503, client.keeps)
    assert int(answer.get("Retry-After") or "") > 0
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (503, "SC", "<NOSRV>")
    assert line.reason


@pytest.mark.row(30)
async def test_a_server_that_refuses_connections_is_503(stage: Stage) -> None:
    lb = await stage.balancer(stage.nobody(), backend={"retries": 0})
    client = await stage.client(lb)
    answer = await client.ask()
    assert (answer.status, answer.get("Connection")) == (503, client.keeps)
    assert int(answer.get("Retry-After") or "") > 0
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (503, "SC", "agent1")
    assert "refused" in line.reason
