"""Connections by HTTP/2 to servers: how many there are, which requests they get, how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.http2.test_upstreams import H2, asked, between, line
from tests.support.http2_origin import Http2AtOrigin, http2_at
from tests.support.loops import on_both_loops
from tests.support.stage import FIRST_THEN_SECOND, in_flight, server_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client
    from tests.support.stage import Stage

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


async def many(stage: Stage, lb: LoadBalancer, count: int) -> list[Client]:
    """Clients, each of which has sent a GET."""
    clients = await stage.clients(lb, count)
    for n, client in enumerate(clients):
        await client.get(f"/{n}")
    return clients


@on_both_loops
async def test_fifty_requests_share_one_dial(stage: Stage) -> None:
    lb, _, origin = await line(stage)
    clients = await many(stage, lb, 50)
    at_origin = await http2_at(origin)
    for _ in clients:
        request = await at_origin.request()
        await at_origin.respond(request, str(request.get(":path")).encode())
    for n, client in enumerate(clients):
        assert (await client.read_response()).body == b"/%d" % n
    assert await origin.has_no_new_connection()
    assert server_of(lb).counters.dial.count == 1


async def test_another_connection_only_when_all_are_full(stage: Stage) -> None:
    lb, _, origin = await line(stage)
    clients = await many(stage, lb, 5)
    connections = []
    for count in (2, 2, 1):
        connection = await http2_at(origin, max_concurrent_streams=2)
        connections.append(connection)
        for _ in range(count):
            await connection.begun()
    assert await origin.has_no_new_connection()
    for connection in connections:
        for request in list(connection.asked.values()):
            await connection.respond(request, b"ok")
    for client in clients:
        assert (await client.read_response()).body == b"ok"
    # The oldest with room is used, and no other.
    for _ in range(5):
        await clients[0].get("/again")
        await connections[0].respond(await connections[0].request(), b"again")
        assert (await clients[0].read_response()).body == b"again"


async def test_connections_above_keep_alive_close(stage: Stage) -> None:
    lb, _, origin = await line(stage, backend={"keep_alive": 1})
    clients = await many(stage, lb, 3)
    connections = [await http2_at(origin, max_concurrent_streams=1) for _ in clients]
    begun = [await connection.begun() for connection in connections]
    for left, connection, request in zip((2, 1, 0), connections, begun, strict=True):
        await connection.respond(request, b"ok")
        await eventually(lambda left=left: in_flight(lb) == [left])
    for connection in connections[1:]:
        await connection.read_to_end()
        assert len(connection.goaways) == 1
    await clients[0].read_response()
    await clients[0].get("/")
    await connections[0].respond(await connections[0].request(), b"kept")
    assert (await clients[0].read_response()).body == b"kept"


@pytest.mark.parametrize("which", ["the same", "another"])
async def test_a_refused_post_is_retried_and_no_failure(stage: Stage, which: str) -> None:
    first, second = await stage.origin(), await stage.origin()
    servers = [first] if which == "the same" else [first, second]
    each = FIRST_THEN_SECOND if len(servers) == 2 else None
    lb = await stage.balancer(*servers, backend=H2, each=each)
    client = await stage.client(lb)
    await client.send(POST)
    at_first = await http2_at(first)
    request = await at_first.request()
    await at_first.reset(request, 7)
    at_next = at_first if which == "the same" else await http2_at(second)
    again = await at_next.request()
    assert again.body == b"hi"
    await at_next.respond(again, b"ok")
    assert (await client.read_response()).body == b"ok"
    counters = server_of(lb).counters
    assert (counters.retries, server_of(lb).fails) == (1, 0)
    assert (await stage.log_line(lb)).termination[:2] == "--"


async def test_a_server_that_always_refuses(stage: Stage) -> None:
    lb, client, origin = await line(stage)
    await client.send(POST)
    at_origin = await http2_at(origin)
    for _ in range(4):  # and three retries
        await at_origin.reset(await at_origin.request(), 7)
    assert (await client.read_response()).status == 503
    assert (server_of(lb).fails, server_of(lb).counters.http2_resets) == (0, 4)
    assert (await stage.log_line(lb)).termination[:2] == "SH"


async def test_what_a_goaway_leaves_over_is_retried(stage: Stage) -> None:
    """POST too, on another connection; what the server has begun finishes."""
    lb, client, origin = await line(stage)
    await client.get("/begun")
    at_origin = await http2_at(origin)
    begun = await at_origin.request()
    other = await stage.client(lb)
    await other.send(POST)
    left = await at_origin.request()
    await at_origin.go_away(begun.number)
    connection = await http2_at(origin)
    again = await connection.request()
    assert again.body == b"hi"
    await connection.respond(again, b"again")
    assert (await other.read_response()).body == b"again"
    await at_origin.respond(begun, b"begun")
    assert (await client.read_response()).body == b"begun"
    await at_origin.read_to_end()
    assert left.number > begun.number
    counters = server_of(lb).counters
    assert (server_of(lb).fails, counters.http2_goaways, counters.http2_resets) == (0, 1, 0)


async def test_a_goaway_that_leaves_time(stage: Stage) -> None:
    """The first of two: no request is lost, and the next one has another connection."""
    lb, client, origin = await line(stage)
    await client.get("/")
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    await at_origin.go_away(2**31 - 1)
    other = await stage.client(lb)
    await eventually(lambda: next(iter(lb._context.live.shared)).is_going)
    await other.get("/next")
    connection = await http2_at(origin)
    await connection.respond(await connection.request(), b"new")
    assert (await other.read_response()).body == b"new"
    await at_origin.respond(request, b"old")
    await at_origin.go_away(request.number)
    assert (await client.read_response()).body == b"old"
    await at_origin.read_to_end()
    assert server_of(lb).counters.http2_goaways == 1  # it said so twice


async def test_a_goaway_while_nothing_runs(stage: Stage) -> None:
    lb, client, origin = await line(stage)
    for _ in range(3):
        await client.send(POST)
        at_origin = await http2_at(origin)
        request = await at_origin.request()
        await at_origin.respond(request, b"ok")
        assert (await client.read_response()).body == b"ok"
        await at_origin.go_away(request.number)
        await at_origin.read_to_end()
    assert server_of(lb).counters.retries == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_is_lost_before_the_response(stage: Stage, method: str) -> None:
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second, backend=H2, each=FIRST_THEN_SECOND)
    client = await stage.client(lb)
    await (client.get() if method == "GET" else client.send(POST))
    at_first = await http2_at(first)
    await at_first.request()
    at_first.peer.abort()
    if method == "GET":
        at_second = await http2_at(second)
        await at_second.respond(await at_second.request(), b"ok")
        assert (await client.read_response()).body == b"ok"
    else:
        assert (await client.read_response()).status == 502
    assert server_of(lb).fails == 1


@pytest.mark.parametrize(("code", "status"), [(1, 502), (2, 502), (13, 502)])
async def test_a_stream_that_is_reset_before_the_response(
    stage: Stage, code: int, status: int
) -> None:
    lb, client, origin = await line(stage)
    await client.send(POST)
    at_origin = await http2_at(origin)
    await at_origin.reset(await at_origin.request(), code)
    assert (await client.read_response()).status == status
    await client_goes_on(stage, lb, at_origin)


async def client_goes_on(stage: Stage, lb: LoadBalancer, at_origin: Any) -> None:
    """The connection to the server serves others."""
    other = await stage.client(lb)
    await other.get("/other")
    await at_origin.respond(await at_origin.request(), b"fine")
    assert (await other.read_response()).body == b"fine"


async def test_an_idle_connection_that_was_lost_is_no_failure(stage: Stage) -> None:
    lb, client, origin = await line(stage)
    for _ in range(3):
        await client.get("/")
        at_origin = await http2_at(origin)
        await at_origin.respond(await at_origin.request(), b"ok")
        assert (await client.read_response()).body == b"ok"
        at_origin.peer.close()
    assert (server_of(lb).fails, server_of(lb).counters.retries) == (0, 0)


async def test_an_idle_connection_ends_with_a_goaway(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(
        stage, timeouts={"keep_alive": "100ms"}, backend={"keep_alive_timeout": "100ms"}
    )
    await at_origin.respond(request, b"ok")
    await client.read_response()
    await at_origin.read_to_end()
    assert [one.error_code for one in at_origin.goaways] == [0]
    assert not lb._context.live.shared


async def test_a_drain_lets_streams_finish(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(stage)
    draining = stage.tasks.spawn(lb.drain(5.0), name="drain")
    await eventually(lambda: lb._context.live.is_draining)
    await at_origin.respond(request, b"done")
    assert (await client.read_response()).body == b"done"
    await at_origin.read_to_end()
    assert await draining


NOT_HTTP2 = {
    "an answer of HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak HTTP/2"),
    "no answer": (b"", "it closed without a word of HTTP/2"),
    "no streams": (bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0)), "it allows no streams"),
}


@pytest.mark.parametrize("case", NOT_HTTP2)
async def test_a_server_that_does_not_speak_it(stage: Stage, case: str) -> None:
    answer, reason = NOT_HTTP2[case]
    lb, client, origin = await line(stage, backend={"retries": 0})
    await client.send(POST)
    at_origin = await origin.accept()
    assert (await at_origin.read_some()).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    if answer:
        await at_origin.send(answer)
    else:
        at_origin.close()
    assert (await client.read_response()).status == 503
    logged = await stage.log_line(lb)
    assert logged.termination[:2] == "SC"
    assert reason in logged.reason


async def test_a_server_that_says_nothing(stage: Stage) -> None:
    lb, client, origin = await line(stage, timeouts={"connect": "200ms"}, backend={"retries": 0})
    await client.get("/")
    at_origin = await origin.accept()
    assert (await client.read_response()).status == 503
    assert (await stage.log_line(lb)).termination[:2] == "sC"
    await at_origin.read_until_cut()  # all that waited have left: the dial ends
    assert not lb._context.live.shared


async def test_a_websocket_has_a_connection_by_http11(stage: Stage) -> None:
    _, client, origin = await line(stage)
    await client.get("/")
    at_origin = await http2_at(origin)
    await at_origin.respond(await at_origin.request(), b"ok")
    await client.read_response()
    await client.send(
        b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    plain, handshake = await origin.accept_request()
    assert handshake.head.target == "/chat"
    await plain.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    assert (await client.read_head()).status == 101
    await client.send(b"hello")
    assert await plain.read_exactly(5) == b"hello"
    plain.close()
    await client.read_until_cut()


async def test_a_silent_server_is_asked_and_given_up(stage: Stage) -> None:
    with (
        patch("hermes_lb.proxy.http2.upstream.PING_AFTER", 0.1),
        patch("hermes_lb.proxy.http2.upstream.PING_TIMEOUT", 1.5),
    ):
        lb, client, at_origin, request = await asked(stage, timeouts={"tunnel": "100ms"})
        await at_origin.read_until(lambda: at_origin.pings >= 2)  # answered: it is kept
        await at_origin.respond(request, b"ok")
        assert (await client.read_response()).body == b"ok"
        await client.send(POST)
        await at_origin.request()
        # Nothing is answered from here on.
        assert (await client.read_response()).status == 502
        await at_origin.peer.read_until_cut()
    assert server_of(lb).fails == 1


async def test_an_answer_within_the_clocks_resolution_is_one(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(stage)
    backend = lb._plane.backends["agents"]
    shared: Any = backend.connections[server_of(lb)]
    [connection] = shared._connections
    now = lb._context.clock()
    # Asked, and answered in the same millisecond, long ago.
    connection._pinged_at = connection.heard_at = now - 60.0
    connection.sweep(now)
    await at_origin.read_until(lambda: at_origin.pings == 1)  # it is asked again, and kept
    await at_origin.respond(request, b"ok")
    assert (await client.read_response()).body == b"ok"


async def test_an_idle_connection_is_not_asked(stage: Stage) -> None:
    with patch("hermes_lb.proxy.http2.upstream.PING_AFTER", 0.05):
        _, client, at_origin, request = await asked(
            stage, backend={"keep_alive_timeout": "500ms"}, timeouts={"tunnel": "40ms"}
        )
        await at_origin.respond(request, b"ok")
        await client.read_response()
        pings = at_origin.pings
        await at_origin.read_to_end()
    assert at_origin.pings == pings


async def test_a_reload_changes_the_protocol(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    await client.get("/")
    plain, _ = await origin.accept_request()
    await plain.respond(b"one")
    assert (await client.read_response()).body == b"one"
    for protocol in ("h2", "http/1.1", "h2"):
        backend = lb.config.backends["agents"].model_copy(update={"protocol": protocol})
        await lb.reconfigure(lb.config.model_copy(update={"backends": {"agents": backend}}))
        await client.get("/")
        if protocol == "h2":
            at_origin = await http2_at(origin)
            await at_origin.respond(await at_origin.request(), b"two")
        else:
            plain, _ = await origin.accept_request()
            await plain.respond(b"two")
        assert (await client.read_response()).body == b"two"


async def test_a_client_that_leaves_while_it_is_dialed(stage: Stage) -> None:
    """The others still get the connection."""
    lb, client, origin = await line(stage)
    other = await stage.client(lb)
    await client.get("/left")
    await other.get("/stays")
    await eventually(lambda: in_flight(lb) == [2])
    at_origin = await origin.accept()
    client.abort()
    await eventually(lambda: in_flight(lb) == [1])
    connection = Http2AtOrigin(at_origin)
    request = await connection.request()
    assert request.get(":path") == "/stays"
    await connection.respond(request, b"ok")
    assert (await other.read_response()).body == b"ok"


async def test_a_client_by_http2_leaves_with_all_its_streams(stage: Stage) -> None:
    lb, client, origin = await between(stage)
    for _ in range(10):
        await client.open()
    at_origin = await http2_at(origin)
    requests = [await at_origin.request() for _ in range(10)]
    client.client.abort()
    for request in requests:
        assert await at_origin.was_reset(request) == 8
    await eventually(lambda: in_flight(lb) == [0])
