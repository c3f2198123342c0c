"""Row 29: an answer to a part of a request. Its connection must never carry another request.

A server that has not read the body takes it for the next request (CWE-444): what follows on the
connection would complete it, with the next client's cookies.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hostile import BEHIND, answers_the_next_one, row
from tests.support.http_peer import request, response
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb import LoadBalancer
    from hermes_lb.proxy.http1.client import ClientConnection
    from hermes_lb.proxy.http1.upstream import UpstreamConnection
    from tests.support.http_peer import AtOrigin, Client
    from tests.support.origin import Origin

EXPECT = "Expect: 100-continue"
CHUNKED = "Transfer-Encoding: chunked"
CHUNK = b"%x\r\n%b\r\n" % (len(BEHIND), BEHIND)
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
KEY = "Idempotency-Key: 1"


def post(*fields: str, length: int = len(BEHIND)) -> bytes:
    """The head of an upload."""
    framing = () if CHUNKED in fields else (f"Content-Length: {length}",)
    return request("POST", "/upload", *fields, *framing)


async def uploading(
    stage: Stage, pieces: Iterable[bytes], **options: Any
) -> tuple[Origin, LoadBalancer, Client, AtOrigin]:
    """The origin has got these pieces of a request, one by one, and has said nothing yet."""
    lb, client, origin = await stage.line(**options)
    at_origin: AtOrigin | None = None
    for piece in pieces:
        await client.send(piece)
        at_origin = at_origin or await origin.accept()
        body = piece.partition(b"\r\n\r\n")[2] if piece.startswith(b"POST") else piece
        await at_origin.read_until(body[-8:] or b"\r\n\r\n")
    assert at_origin is not None
    return origin, lb, client, at_origin


async def serves_nobody_else(victim: Client, origin: Origin, at_origin: AtOrigin) -> None:
    """The connection is closed, and the next request takes another one."""
    await victim.get("/next", "Cookie: secret=1")
    await answers_the_next_one(victim, origin)
    await at_origin.read_until_cut()
    assert b"secret" not in at_origin.received


# The pieces in which a request comes whose expectation is refused.
UNASKED = [
    row(29, "with-the-head", [post(EXPECT) + BEHIND]),
    row(29, "behind-the-head", [post(EXPECT), BEHIND]),
    row(29, "chunked", [post(EXPECT, CHUNKED), CHUNK + LAST_CHUNK]),
    row(29, "chunked-with-the-head", [post(EXPECT, CHUNKED) + CHUNK + LAST_CHUNK]),
    row(29, "keyed", [post(EXPECT, KEY) + BEHIND]),
    row(29, "beyond-the-retry-buffer", [post(EXPECT, length=100_000) + b"x" * 99_996 + b"last"]),
]


@pytest.mark.parametrize("status", [200, 401, 417])
@pytest.mark.parametrize("pieces", UNASKED)
async def test_a_body_that_was_not_asked_for_ends_the_connection(
    stage: Stage, pieces: list[bytes], status: int
) -> None:
    """RFC 9110 section 10.1.1: the server may not have read it, and may take it for a request."""
    origin, _, client, at_origin = await uploading(stage, pieces)
    await at_origin.respond(b"no", status=status)
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.get("Connection")) == (status, b"no", None)
    await serves_nobody_else(client, origin, at_origin)  # the client's own connection goes on


@pytest.mark.row(29)
async def test_an_expectation_of_a_client_that_has_left_is_no_less_refused(stage: Stage) -> None:
    """... where the server may finish what it has begun."""
    route = {"path_prefix": "/", "backend": "agents", "on_disconnect": "detach"}
    origin, lb, client, at_origin = await uploading(
        stage, [post(EXPECT) + BEHIND], frontend={"routes": [route]}
    )
    client.close()
    await stage.log_line(lb)
    await at_origin.respond(b"no", status=401)
    await at_origin.read_until_cut()
    await serves_nobody_else(await stage.client(lb), origin, at_origin)


@pytest.mark.row(29)
async def test_an_upload_of_a_client_that_has_left_keeps_the_connection(stage: Stage) -> None:
    """... if it was sent before the answer, as any other."""
    route = {"path_prefix": "/", "backend": "agents", "on_disconnect": "detach"}
    _, lb, client, at_origin = await uploading(
        stage, [post(), BEHIND[:9], BEHIND[9:]], frontend={"routes": [route]}
    )
    client.close()
    await stage.log_line(lb)
    await at_origin.respond(b"done")
    await eventually(lambda: in_flight(lb) == [0])
    client = await stage.client(lb)
    await at_origin.serves_the_next_of(client)


@pytest.mark.row(29)
async def test_a_client_that_waits_for_100_is_refused_and_closed(stage: Stage) -> None:
    origin, lb, client, at_origin = await uploading(stage, [post(EXPECT)])
    await at_origin.respond(b"no", status=401)
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (401, client.closes)
    assert await client.read_to_end() == b""
    await serves_nobody_else(await stage.client(lb), origin, at_origin)


# The head of an answer, of which two bytes are to come. The upload ends in between.
BEGUN = b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nno"

UPLOADS = [
    row(29, "length", [post(), BEHIND[:9]], BEHIND[9:]),
    row(29, "chunked", [post(CHUNKED), CHUNK], LAST_CHUNK),
    row(29, "asked-for", [post(EXPECT), BEHIND[:9]], BEHIND[9:]),
]


@pytest.mark.parametrize("cut", [1, len(BEGUN) - 6, len(BEGUN)])
@pytest.mark.parametrize(("pieces", "rest"), UPLOADS)
async def test_an_upload_that_ends_behind_the_answers_head_ends_the_connection(
    stage: Stage, pieces: list[bytes], rest: bytes, cut: int
) -> None:
    """The answer came early: to its head alone. However much of that came before the end."""
    origin, lb, client, at_origin = await uploading(stage, pieces)
    if EXPECT.encode() in pieces[0]:
        await at_origin.send(CONTINUE)
        assert (await client.read_response()).status == 100
    answer = BEGUN % 200
    await at_origin.send(answer[:cut])
    await turns(20)
    await client.send(rest)
    await at_origin.read_until(rest[-4:])
    await at_origin.send(answer[cut:] + b"ne")
    answered = await client.read_response()
    assert (answered.status, answered.body) == (200, b"none")
    await serves_nobody_else(await stage.client(lb), origin, at_origin)


def ends(lb: LoadBalancer) -> tuple[ClientConnection, UpstreamConnection]:
    """The balancer's own ends of its only two connections."""
    (client,), (upstream,) = lb._plane.context.live.clients, lb._plane.context.live.upstreams
    return client, upstream


@pytest.mark.http1_only("bytes are given to the connection itself")
@pytest.mark.row(29)
@on_both_loops
@pytest.mark.parametrize("first", ["answer", "body"])
@pytest.mark.parametrize("fields", [(), (CHUNKED,)], ids=["length", "chunked"])
async def test_an_answer_in_the_loop_iteration_in_which_the_upload_ends(
    stage: Stage, first: str, fields: tuple[str, ...]
) -> None:
    """The end of the body has not been written when the answer is read: it is an early one."""
    body, rest = (CHUNK, LAST_CHUNK) if fields else (BEHIND[:9], BEHIND[9:])
    origin, lb, client, at_origin = await uploading(stage, [post(*fields), body])
    to_client, to_server = ends(lb)
    if first == "answer":
        to_server.data_received(response(b"early"))
        to_client.data_received(rest)
    else:
        to_client.data_received(rest)
        to_server.data_received(response(b"early"))
    assert (await client.read_response()).body == b"early"
    await serves_nobody_else(await stage.client(lb), origin, at_origin)


@pytest.mark.row(29)
@on_both_loops
async def test_an_answer_to_a_body_that_the_kernel_has_not_taken_yet(stage: Stage) -> None:
    """All of it has come, and waits in the write buffer, when the server answers its head."""
    origin = await stage.origin(receive_buffer=4096)
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    await client.send(post(length=60_000))
    at_origin = await origin.accept()
    await at_origin.read_head()
    _, to_server = ends(lb)
    sock = to_server.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await client.send(b"x" * 60_000)
    await eventually(lambda: to_server.upload is not None and to_server.upload.is_read)
    assert to_server.transport.get_write_buffer_size() > 0
    await at_origin.serves(client, b"enough")
    await serves_nobody_else(client, origin, at_origin)


# What must not close: each of these would cost a connection for each request.
ORDINARY = [
    row(29, "whole", [post() + BEHIND]),
    row(29, "in-pieces", [post(), BEHIND[:9], BEHIND[9:]]),
    row(29, "chunked", [post(CHUNKED), CHUNK, LAST_CHUNK]),
    row(29, "beyond-the-retry-buffer", [post(length=3_000_000), b"x" * 2_999_996 + b"last"]),
]


@on_both_loops
@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("pieces", ORDINARY)
async def test_a_body_that_was_sent_before_the_answer_keeps_the_connection(
    stage: Stage, pieces: list[bytes], status: int
) -> None:
    _, _, client, at_origin = await uploading(stage, pieces)
    for _ in range(3):
        await at_origin.respond(b"done", status=status)
        assert (await client.read_response()).body == b"done"
        await client.post(b"again")
        assert (await at_origin.read_request()).body == b"again"
    await at_origin.serves(client, b"end")


@pytest.mark.row(29)
@pytest.mark.parametrize("pieces", [[post(EXPECT) + BEHIND], [post(EXPECT), BEHIND]])
async def test_a_body_that_was_asked_for_keeps_the_connection(
    stage: Stage, pieces: list[bytes]
) -> None:
    _, _, client, at_origin = await uploading(stage, pieces)
    await at_origin.send(CONTINUE)
    assert (await client.read_response()).status == 100
    await at_origin.serves(client, b"done")
    await at_origin.serves_the_next_of(client)
