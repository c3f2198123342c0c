"""Facing the server: response heads, interim responses, and everything it may do wrong."""

from __future__ import annotations

import pytest

from tests.support.http_peer import request, response
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, pool_of
from tests.support.waiting import eventually

# Responses.


@on_both_loops
@pytest.mark.parametrize("how", ["at once", "bytewise"])
@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer-1: x\r\n\r\n",
            b"hello",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    ],
    ids=["length", "empty", "chunked", "interim"],
)
async def test_a_response_arrives_however_it_was_cut_up(
    stage: Stage, how: str, wire: bytes, body: bytes
) -> None:
    lb, client, at_origin = await stage.asked()
    for n in range(2):
        await (at_origin.send(wire) if how == "at once" else at_origin.send_bytewise(wire))
        answer = await client.read_response()
        if answer.status == 100:
            answer = await client.read_response()
        assert answer.body == body
        assert await client.gets_nothing()
        if n == 0:
            await client.get()  # on the same connections
            await at_origin.read_request()
    assert [line.termination for line in await stage.logged(lb, 2)] == ["--", "--"]


@on_both_loops
async def test_a_body_until_close_gets_chunks(stage: Stage) -> None:
    _, client, origin = await stage.line()
    for n in range(2):  # and the client's connection goes on
        await client.get()
        at_origin, _ = await origin.accept_request()
        await at_origin.send(b"HTTP/1.1 200 OK\r\nX-Number: %d\r\n\r\nsome" % n)
        head = await client.read_head()
        assert head.get("Transfer-Encoding") == "chunked"
        assert head.get("Connection") is None
        assert await client.read_chunk() == b"some"
        await at_origin.send(b"more")
        assert await client.read_chunk() == b"more"
        at_origin.close()
        assert await client.read_chunk() == b""


async def test_an_empty_body_until_close_is_one_last_chunk(stage: Stage) -> None:
    _, client, at_origin = await stage.asked()
    await at_origin.send(b"HTTP/1.0 200 OK\r\n\r\n")
    at_origin.close()
    assert (await client.read_response()).body == b""


@pytest.mark.parametrize(
    ("method", "wire", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", "12345"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "99"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", None),
    ],
)
async def test_a_response_without_a_body_is_followed_by_the_next(
    stage: Stage, method: str, wire: bytes, length: str | None
) -> None:
    _, client, origin = await stage.line()
    await client.send(request(method, "/1"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(wire)
    answer = await client.read_response(method=method)
    assert answer.get("Content-Length") == length
    assert answer.get("Connection") is None
    await client.get("/2")
    # A server that sends the announced body after all, only later, must not find another request
    # on this connection; where none was announced, the connection goes on.
    if length not in (None, "0") or b"chunked" in wire:
        at_origin, _ = await origin.accept_request()
    else:
        await at_origin.read_request()
    await at_origin.serves(client, b"two")


# Interim responses.


async def test_early_hints_are_relayed_at_once(stage: Stage) -> None:
    _, client, at_origin = await stage.asked()
    await at_origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    hints = await client.read_response()
    assert (hints.status, hints.get("Link")) == (103, "</style.css>; rel=preload")
    await at_origin.serves(client, b"page")


async def test_closed_after_an_interim_response_is_502_and_never_repeated(stage: Stage) -> None:
    _, client, first, second = await stage.with_backup()
    await client.get()
    at_first, _ = await first.accept_request()
    await at_first.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert (await client.read_response()).status == 103
    at_first.close()
    assert (await client.read_response()).status == 502
    assert second.requests == []


# Idle connections.


async def test_an_idle_connection_that_the_server_closes_is_forgotten(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    for n in range(2):
        await client.get()
        at_origin, _ = await origin.accept_request()
        await at_origin.serves(client, b"%d" % n)
        at_origin.close()
        await eventually(lambda: lb._context is not None and not lb._context.live.upstreams)
    assert {line.retries for line in await stage.logged(lb, 2)} == {"0"}


async def test_only_so_many_idle_connections_are_kept(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, backend={"keep_alive": 2})
    clients = await stage.clients(lb, 4)
    at_origins = []
    for client in clients:
        await client.get()
        at_origins.append((await origin.accept_request())[0])
    for client, at_origin in zip(clients, at_origins, strict=True):
        await at_origin.respond(b"x")
        await client.read_response()
    for at_origin in at_origins[:2]:  # those that were used last are the best
        assert await at_origin.read_to_end() == b""
    for at_origin in at_origins[2:]:
        assert await at_origin.gets_nothing()


async def test_no_idle_connections_are_kept_where_none_are_wanted(stage: Stage) -> None:
    _, client, origin = await stage.line(backend={"keep_alive": 0})
    for _ in range(2):
        await client.get()
        at_origin, _ = await origin.accept_request()
        await at_origin.send(response(b"x"))
        assert (await client.read_response()).body == b"x"
        assert await at_origin.read_to_end() == b""


async def test_an_idle_connection_is_closed_after_its_time(stage: Stage) -> None:
    _, client, at_origin = await stage.asked(backend={"keep_alive_timeout": 0.1})
    await at_origin.respond(b"x")
    await client.read_response()
    assert await at_origin.read_to_end() == b""
    assert await client.gets_nothing()  # the client's own goes on


@on_both_loops
async def test_a_surplus_response_reaches_nobody_who_waits(stage: Stage) -> None:
    """Not even if it comes in a read of its own, in the turn of the one before it."""
    lb, client, at_origin = await stage.asked(server={"max_connections": 1})
    waiting = await stage.client(lb)
    await waiting.get("/of-another")
    await eventually(lambda: len(pool_of(lb).waiting) == 1)
    (upstream,) = lb._plane.context.live.upstreams
    upstream.data_received(response(b"asked for"))
    upstream.data_received(response(b"surplus"))
    assert (await client.read_response()).body == b"asked for"
    assert await at_origin.read_until_cut() == b""
    await eventually(lambda: len(lb._plane.context.live.upstreams) == 1)
    assert await waiting.gets_nothing()
