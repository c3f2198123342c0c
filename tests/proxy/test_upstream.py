"""Facing the server: response heads, interim responses, and everything it may do wrong."""

from __future__ import annotations

import pytest

from tests.support.http_peer import request, response
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, pool_of, server_of
from tests.support.waiting import eventually, turns

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


async def test_a_reset_is_not_the_end_of_a_body_until_close(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked()
    await at_origin.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
    await client.read_head()
    assert await client.read_chunk() == b"some"
    at_origin.abort()
    assert await client.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "SD"


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
    await at_origin.respond(b"two")
    assert (await client.read_response()).body == b"two"


@pytest.mark.parametrize(
    ("method", "wire"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ],
    ids=["HEAD", "204", "304", "length", "chunked"],
)
@pytest.mark.parametrize("when", ["with the response", "behind it"])
async def test_bytes_behind_a_response_are_dropped_with_their_connection(
    stage: Stage, method: str, wire: bytes, when: str
) -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    _, client, origin = await stage.line()
    await client.send(request(method, "/1"))
    at_origin, _ = await origin.accept_request()
    await at_origin.send(wire + evil if when == "with the response" else wire)
    answer = await client.read_response(method=method)
    assert answer.body in (b"", b"ok")
    if when == "behind it":
        await at_origin.send(evil)
    assert await at_origin.read_until_cut() == b""
    assert await client.gets_nothing()
    await client.get("/2")
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/2"
    await at_origin.respond(b"two")
    assert (await client.read_response()).body == b"two"


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok", b"ay"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nok", b"ay\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_bytes_behind_a_body_that_came_in_parts_are_dropped_too(
    stage: Stage, first: bytes, rest: bytes
) -> None:
    _, client, origin = await stage.line()
    await client.get("/1")
    at_origin, _ = await origin.accept_request()
    await at_origin.send(first)
    await client.read_until(b"ok")
    await client.get("/2")  # it waits for its turn, which comes in the middle of these bytes
    await turns()
    await at_origin.send(rest + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert await at_origin.read_until_cut() == b""
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/2"
    await at_origin.respond(b"two")
    await client.read_until(b"Content-Length: 3\r\n\r\n")
    assert await client.read_exactly(3) == b"two"
    assert b"evil" not in client.received


# Interim responses.


async def test_early_hints_are_relayed_at_once(stage: Stage) -> None:
    _, client, at_origin = await stage.asked()
    await at_origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    hints = await client.read_response()
    assert (hints.status, hints.get("Link")) == (103, "</style.css>; rel=preload")
    await at_origin.respond(b"page")
    assert (await client.read_response()).body == b"page"


async def test_http_1_0_gets_no_interim_response(stage: Stage) -> None:
    _, client, at_origin = await stage.asked(version="1.0")
    await at_origin.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
    await at_origin.respond(b"page")
    assert (await client.read_response()).body == b"page"


@pytest.mark.parametrize(("count", "status"), [(32, 200), (33, 502)])
async def test_interim_responses_have_a_limit(stage: Stage, count: int, status: int) -> None:
    _, client, at_origin = await stage.asked()
    await at_origin.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * count)
    if status == 200:
        await at_origin.respond(b"page")
    for _ in range(32):
        assert (await client.read_response()).status == 103
    assert (await client.read_response()).status == status


async def test_closed_after_an_interim_response_is_502_and_never_repeated(stage: Stage) -> None:
    _, client, first, second = await stage.with_backup()
    await client.get()
    at_first, _ = await first.accept_request()
    await at_first.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert (await client.read_response()).status == 103
    at_first.close()
    assert (await client.read_response()).status == 502
    assert second.requests == []


# Faults.


@on_both_loops
@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 40_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_an_ambiguous_response_is_502_and_its_connection_closed(
    stage: Stage, wire: bytes
) -> None:
    lb, client, first, second = await stage.with_backup()
    await client.get()
    at_first, _ = await first.accept_request()
    await at_first.send(wire)
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (502, "keep-alive")
    assert await at_first.read_until_cut() == b""
    assert second.requests == []  # it has executed the request
    assert server_of(lb).fails == 1
    line = await stage.log_line(lb)
    assert (line.termination, line.status, line.server) == ("PH", 502, "agent1")
    assert in_flight(lb) == [0, 0]
    await client.get()  # the client's connection goes on
    at_first, _ = await first.accept_request()
    await at_first.respond(b"fine")
    assert (await client.read_response()).body == b"fine"


async def test_a_response_head_without_an_end_is_502_at_its_limit(stage: Stage) -> None:
    _, client, at_origin = await stage.asked(limits={"head_size": 2048})
    await at_origin.send(b"HTTP/1.1 200 OK\r\nA: ")
    await at_origin.send(b"x" * 2048)
    assert (await client.read_response()).status == 502


@on_both_loops
@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("wire", "part"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"abc"),
    ],
    ids=["length", "between chunks", "in a chunk", "in the last chunk"],
)
async def test_a_short_body_is_visibly_cut(
    stage: Stage, wire: bytes, part: bytes, version: str, ending: str
) -> None:
    lb, client, at_origin = await stage.asked(version=version)
    await at_origin.send(wire)
    head = await client.read_head()
    await client.read_until(part)
    await turns()
    getattr(at_origin, ending)()
    if version == "1.0" and head.get("Content-Length") is None:
        with pytest.raises(Exception, match="reset"):  # nothing else shows it there
            await client.read_to_end()
    else:
        assert not (await client.read_until_cut()).endswith(b"0\r\n\r\n")
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("SD", 200)
    assert server_of(lb).counters.aborted_by_server == 1


@pytest.mark.parametrize("when", ["with the head", "later"])
async def test_a_broken_chunk_is_visibly_cut(stage: Stage, when: str) -> None:
    lb, client, at_origin = await stage.asked()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    if when == "later":
        await at_origin.send(head + b"3\r\nabc\r\n")
        await client.read_until(b"abc\r\n")
        await at_origin.send(b"nonsense\r\n")
    else:
        await at_origin.send(head + b"nonsense\r\n")
        await client.read_head()
    assert not (await client.read_until_cut()).endswith(b"0\r\n\r\n")
    assert await at_origin.read_until_cut() == b""
    assert (await stage.log_line(lb)).termination == "SD"


# Idle connections.


async def test_an_idle_connection_that_the_server_closes_is_forgotten(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    for n in range(2):
        await client.get()
        at_origin, _ = await origin.accept_request()
        await at_origin.respond(b"%d" % n)
        assert (await client.read_response()).body == b"%d" % n
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
