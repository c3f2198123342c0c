"""Row 17, and what one client may take: sizes, connections, requests a second."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import (
    BEHIND,
    Way,
    deliver,
    echo,
    h1_row,
    is_passed,
    is_refused,
    is_turned_away,
    read_until_cut,
    row,
)
from tests.support.http_peer import Client, request, response
from tests.support.referees import is_whole
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

SMALL = {"head_size": 2048, "header_count": 10, "target_size": 1024}
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
LONG = b"GET /%b HTTP/1.1\r\nHost: a\r\n"

# What arrives where the limits are SMALL, the status, a part of the reason in the log.
REFUSED = [
    row(17, "one-long-value", GET + b"A: " + b"b" * 2048 + b"\r\n\r\n", 431, "too large"),
    h1_row(17, "a-head-without-an-end", GET + b"A: " + b"b" * 2048, 431, "too large"),
    row(17, "one-byte-over", GET + b"A: %b\r\n\r\n" % (b"b" * (2049 - len(GET) - 7)), 431,
        "too large"),
    row(17, "eleven-fields", GET + b"A: b\r\n" * 10 + b"\r\n", 431, "10 header fields"),
    h1_row(17, "eleven-that-are-dropped", GET + b"TE: trailers\r\n" * 10 + b"\r\n", 431,
        "10 header fields"),
    h1_row(17, "eleven-cookies", GET + b"Cookie: a=b\r\n" * 10 + b"\r\n", 431, "10 header fields"),
    row(17, "target", LONG % (b"a" * 1024) + b"\r\n", 414, "target"),
    row(17, "target-in-absolute-form", b"GET http://a/%b HTTP/1.1\r\nHost: a\r\n\r\n"
        % (b"a" * 1024), 414, "target"),
    # RFC 9112 section 3: 414 whatever else is too large, and whether its line ever ends.
    h1_row(17, "target-of-a-head-too-large", LONG % (b"a" * 4096) + b"\r\n", 414, "target"),
    h1_row(17, "target-and-too-many-fields", LONG % (b"a" * 1024) + b"A: b\r\n" * 20 + b"\r\n",
        414, "target"),
    h1_row(17, "target-and-a-long-value", LONG % (b"a" * 1024) + b"A: %b\r\n\r\n" % (b"b" * 4096),
        414, "target"),
    h1_row(17, "target-without-an-end", b"GET /" + b"a" * 4096, 414, "target"),
    h1_row(17, "target-without-an-end-behind-a-line", b"\r\nGET /" + b"a" * 4096, 414, "target"),
    h1_row(17, "version-without-an-end", b"GET / HTTP/1.1" + b"1" * 4096, 431, "too large"),
    row(17, "method", b"A" * 1000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method"),
    h1_row(17, "method-without-an-end", b"A" * 4096, 431, "too large"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "status", "reason"), REFUSED)
async def test_refused(stage: Stage, way: Way, wire: bytes, status: int, reason: str) -> None:
    await is_refused(stage, way, wire, status, reason, limits=SMALL)


TARGET = "/" + "a" * 1023

# The same, one byte or one field less.
PASSED = [
    row(17, "head", GET + b"A: %b\r\n\r\n" % (b"b" * (2048 - len(GET) - 7)), "GET / HTTP/1.1"),
    row(17, "ten-fields", GET + b"A: b\r\n" * 9 + b"\r\n", "GET / HTTP/1.1"),
    row(17, "target", f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"GET {TARGET} HTTP/1.1"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "start"), PASSED)
async def test_what_is_just_within_the_limits_passes(
    stage: Stage, way: Way, wire: bytes, start: str
) -> None:
    await is_passed(stage, way, wire, start, {}, b"", limits=SMALL)


@pytest.mark.http1_only("lines of a head")
@pytest.mark.row(17)
async def test_a_head_far_beyond_its_limit_is_not_read(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    await client.send(GET + b"A: ")
    await client.send_until_refused(b"b" * 10_000, most=20_000_000)
    assert await origin.has_no_new_connection()
    assert (await stage.log_line(lb)).status == 431


# Bodies.

LENGTH_11 = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
# A body counts in its framing: with its end, these ten bytes are 25.
TEN = b"4\r\n0123\r\n6\r\n456789\r\n"
LAST = b"0\r\n\r\n"


@pytest.mark.row(17)
@pytest.mark.parametrize("body", [b"hello world", b""], ids=["there", "not-yet"])
async def test_a_body_that_is_announced_too_large_is_413_at_once(
    stage: Stage, way: Way, body: bytes
) -> None:
    lb, client, origin = await stage.line(limits={"body_size": 10})
    await deliver(client, LENGTH_11 + body, way)
    await is_turned_away(client, 413)
    assert await origin.has_no_new_connection()
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (413, "PR", "<NOSRV>")
    assert line.reason


@pytest.mark.http1_only("chunks")
@pytest.mark.parametrize("excess", [
    row(17, "one-byte-over", b"00\r\n\r\n"),
    row(17, "one-more-chunk", b"1\r\n!\r\n" + LAST),
    row(17, "one-large-chunk", b"ffffff\r\n" + b"!" * 100),
    row(17, "trailers", b"0\r\nA: b\r\n\r\n"),
])  # fmt: skip
async def test_a_body_that_becomes_too_large_is_413(stage: Stage, way: Way, excess: bytes) -> None:
    lb, client, origin = await stage.line(limits={"body_size": 25})
    await client.send(CHUNKED + TEN)
    at_origin = await origin.accept()
    head = await at_origin.read_head()
    assert await at_origin.read_exactly(len(TEN)) == TEN
    await deliver(client, excess, way)
    await is_turned_away(client, 413)
    seen = (await read_until_cut(origin, at_origin)).removeprefix(head.raw)
    assert seen.startswith(TEN)
    assert not is_whole(seen)
    assert b"smuggled" not in seen
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (413, "PD", "agent1")
    assert line.reason


@pytest.mark.parametrize(("wire", "limit"), [
    row(17, "length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789", 10),
    row(17, "chunked", CHUNKED + TEN + LAST, 25),
    row(17, "no-limit-on-a-length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789", 0),
    row(17, "no-limit-on-chunks", CHUNKED + TEN + LAST, 0),
])  # fmt: skip
async def test_a_body_within_its_limit_passes(
    stage: Stage, way: Way, wire: bytes, limit: int
) -> None:
    limits = {"body_size": limit}
    await is_passed(stage, way, wire, "POST / HTTP/1.1", {}, b"0123456789", limits=limits)


@pytest.mark.http1_only("a reset ends the upload: tests/http2/test_requests.py")
@pytest.mark.row(17)
async def test_a_client_that_goes_on_sending_still_reads_its_413(stage: Stage) -> None:
    """To close at once could make the kernel throw the answer away (RFC 9112 section 9.6)."""
    _, client, _ = await stage.line(limits={"body_size": 10})
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(50):
        await client.send(b"x" * 10_000)
        await turns()
    assert (await client.read_response()).status == 413
    assert await client.read_to_end() == b""


# Connections.


@pytest.mark.http1_only("connections are refused before their preface")
@pytest.mark.row(17)
async def test_one_client_may_have_so_many_connections(stage: Stage) -> None:
    origin = await stage.serving(echo)
    lb = await stage.balancer(origin, limits={"connections_per_client": 2})
    kept = await stage.clients(lb, 2)
    for client in kept:
        assert (await client.ask()).status == 200
    one_more = await stage.client(lb)
    await one_more.send(BEHIND)
    await is_turned_away(one_more, 429)
    another = await stage.client(lb, source="127.0.0.2")  # who has done nothing
    assert (await another.ask("/another")).body == b"GET /another"
    assert "/smuggled" not in [message.head.target for message in origin.requests]
    refused = [line for line in await stage.logged(lb, 4) if line.status == 429]
    assert [(line.termination, line.request) for line in refused] == [("PR", "<BADREQ>")]
    assert refused[0].reason == "too many connections from this address"
    kept[0].close()
    one_more.close()
    await eventually(lambda: _open_connections(lb) == 2)
    next_one = await stage.client(lb)  # there is room again
    assert (await next_one.ask("/next")).body == b"GET /next"


def _open_connections(lb: LoadBalancer) -> int:
    assert lb._context is not None
    return len(lb._context.live.clients)


@pytest.mark.http1_only("connections are refused before their preface")
@pytest.mark.row(17)
async def test_clients_beyond_the_balancers_own_limit_wait_and_are_served(stage: Stage) -> None:
    """They wait in the kernel, which has accepted them; as with HAProxy's maxconn."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, process={"max_connections": 2})
    first, second = await stage.clients(lb, 2)
    at = []
    for client, target in ((first, "/first"), (second, "/second")):
        await client.get(target, "Connection: close")
        at.append((await origin.accept_request())[0])
    third = await stage.client(lb)
    await third.get("/third")
    assert await third.gets_nothing()
    assert await origin.has_no_new_connection()
    assert _open_connections(lb) == 2
    await at[0].send(response(b"one"))
    assert (await first.read_response()).body == b"one"
    assert await first.read_to_end() == b""
    assert (await at[0].read_request()).head.target == "/third"
    await at[0].send(response(b"three"))
    assert (await third.read_response()).body == b"three"
    await at[1].send(response(b"two"))
    assert (await second.read_response()).body == b"two"
    assert {line.status for line in await stage.logged(lb, 3)} == {200}


@pytest.mark.http1_only("connections are refused before their preface")
@pytest.mark.row(17)
async def test_a_connection_that_becomes_idle_makes_room_for_those_who_wait(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, process={"max_connections": 2})
    busy = await stage.clients(lb, 2)
    at = []
    for client in busy:
        await client.get()
        at.append((await origin.accept_request())[0])
    waiting = await stage.client(lb)
    await waiting.get("/waiting")
    assert await waiting.gets_nothing()
    await at[0].serves(busy[0], b"done")
    assert await busy[0].read_to_end() == b""  # it could have been kept, if no request were waiting
    assert (await at[0].read_request()).head.target == "/waiting"
    await at[0].serves(waiting, b"welcome")


@pytest.mark.row(17)
async def test_idle_connections_make_room_the_longest_idle_one_first(stage: Stage) -> None:
    origin = await stage.serving(echo)
    lb = await stage.balancer(origin, process={"max_connections": 3})
    first, second = [await _idle_client(stage, lb) for _ in range(2)]
    for oldest, target in ((first, "/third"), (second, "/fourth")):
        client = await stage.client(lb)
        assert await oldest.read_to_end() == b""  # without a word, as a server may
        await eventually(lambda: _open_connections(lb) == 2)
        assert (await client.ask(target)).body == f"GET {target}".encode()
        if oldest is first:
            assert await second.gets_nothing()


async def _idle_client(stage: Stage, lb: LoadBalancer) -> Client:
    client = await stage.client(lb)
    answer = await client.ask("/idle")
    assert (answer.body, answer.get("Connection")) == (b"GET /idle", None)
    loop = asyncio.get_running_loop()
    since = loop.time()  # in milliseconds: wait until the next one is seen to be later
    await eventually(lambda: loop.time() > since + 0.005)
    return client


# Requests a second.


@pytest.mark.row(17)
async def test_one_client_may_send_so_many_requests(stage: Stage) -> None:
    origin = await stage.serving(echo)
    # Two at once, and then one in a thousand seconds: no test is as slow as that.
    lb = await stage.balancer(origin, limits={"request_rate": 0.001, "request_burst": 2})
    client = await stage.client(lb)
    for target in ("/1", "/2"):
        assert (await client.ask(target)).body == f"GET {target}".encode()
    answer = await client.ask("/3")
    assert (answer.status, answer.get("Connection")) == (429, client.keeps)
    assert 900 < int(answer.get("Retry-After") or "") <= 1000
    again = await stage.client(lb)  # another connection is not another client
    assert (await again.ask("/4")).status == 429
    another = await stage.client(lb, source="127.0.0.2")
    assert (await another.ask("/another")).body == b"GET /another"
    assert (await client.ask("/5")).status == 429
    assert [message.head.target for message in origin.requests] == ["/1", "/2", "/another"]
    refused = [line for line in await stage.logged(lb, 6) if line.status == 429]
    assert [(line.termination, line.request) for line in refused] == [
        ("PR", f"GET /{n} {stage.protocol}") for n in (3, 4, 5)
    ]
    assert all("requests" in line.reason for line in refused)


@pytest.mark.http1_only("a refusal ends no connection")
@pytest.mark.row(17)
async def test_a_refused_request_with_a_body_ends_its_connection(stage: Stage, way: Way) -> None:
    """The body is not read, so it must not be taken for requests."""
    lb, client, origin = await stage.served(
        echo, limits={"request_rate": 0.001, "request_burst": 1}
    )
    assert (await client.ask("/1")).body == b"GET /1"
    await deliver(client, request("POST", "/2", body=BEHIND), way)
    await is_turned_away(client, 429)
    assert [message.head.target for message in origin.requests] == ["/1"]
    assert b"smuggled" not in b"".join(bytes(c.received) for c in origin.connections)
    requests = [line.request for line in await stage.logged(lb, 2)]
    assert requests == [f"GET /1 {stage.protocol}", f"POST /2 {stage.protocol}"]


@pytest.mark.row(17)
async def test_retry_after_says_the_truth(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lb, client, _ = await stage.served(echo, limits={"request_rate": 0.001, "request_burst": 1})
    assert (await client.ask()).status == 200
    answer = await client.ask()
    assert answer.status == 429
    wait = int(answer.get("Retry-After") or "")
    loop = asyncio.get_running_loop()
    for later, status in ((wait - 60, 429), (wait, 200)):
        with monkeypatch.context() as patch:
            patch.setattr(lb._context, "clock", partial(_clock, loop, later))
            client = await stage.client(lb)  # the other one was idle for too long
            assert (await client.ask()).status == status


def _clock(loop: asyncio.AbstractEventLoop, later: int) -> float:
    return loop.time() + later
