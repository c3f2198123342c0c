"""Facing the client: keep-alive, heads that come slowly or not at all, connection caps."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import struct
from unittest.mock import patch

import pytest

from hermes_lb.proxy.http1.client import ClientConnection
from tests.support.http_peer import AtOrigin, Client, Message, request, response
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, server_of
from tests.support.waiting import eventually, turns


async def echo_target(connection: AtOrigin, message: Message) -> None:
    await connection.respond(message.head.target.encode())


# Keep-alive.


@on_both_loops
async def test_both_connections_serve_one_request_after_the_other(stage: Stage) -> None:
    lb, client, origin = await stage.line()
    await client.get("/first")
    at_origin, first = await origin.accept_request()
    assert first.head.start == "GET /first HTTP/1.1"
    await at_origin.serves(client, b"one")
    for n in range(3):
        await client.get(f"/{n}")
        assert (await at_origin.read_request()).head.target == f"/{n}"
        await at_origin.respond(b"%d" % n)
        answer = await client.read_response()
        assert (answer.status, answer.body) == (200, b"%d" % n)
        assert answer.get("Connection") is None
    assert len(origin.connections) == 1
    assert server_of(lb).counters.responses[2] == 4


async def test_two_clients_share_the_connection_to_the_server(stage: Stage) -> None:
    origin = await stage.serving(echo_target)
    lb = await stage.balancer(origin)
    for n in range(3):
        client = await stage.client(lb)
        assert (await client.ask(f"/{n}")).body == b"/%d" % n
    assert len(origin.connections) == 1


async def test_a_client_that_wants_to_close_is_closed_and_the_server_is_kept(stage: Stage) -> None:
    origin = await stage.serving(echo_target)
    lb = await stage.balancer(origin)
    for n in range(2):
        client = await stage.client(lb)
        answer = await client.ask(f"/{n}", "Connection: close")
        assert answer.get("Connection") == client.closes
        assert answer.body == b"/%d" % n
        assert await client.read_to_end() == b""
    assert len(origin.connections) == 1
    assert origin.requests[0].get("Connection") is None


async def test_a_server_that_wants_to_close_costs_the_client_nothing(stage: Stage) -> None:
    _, client, origin = await stage.line()
    for n in range(2):
        await client.get("/")
        at_origin, _ = await origin.accept_request()
        await at_origin.respond(b"%d" % n, "Connection: close")
        answer = await client.read_response()
        assert answer.get("Connection") is None
        assert answer.body == b"%d" % n
        assert await at_origin.read_until_cut() == b""  # by us, though it has not closed
        at_origin.close()


# HTTP/1.0.


@pytest.mark.http1_only("HTTP/1.0")
async def test_http_1_0_gets_a_body_until_close_as_it_is(stage: Stage) -> None:
    _, client, at_origin = await stage.asked("/", version="1.0")
    await at_origin.send(b"HTTP/1.0 200 OK\r\n\r\nall of ")
    assert (await client.read_head()).get("Transfer-Encoding") is None
    assert await client.read_exactly(7) == b"all of "
    await at_origin.send(b"it")
    at_origin.close()
    assert await client.read_to_end() == b"it"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
async def test_a_head_may_begin_with_any_few_bytes(stage: Stage, size: int) -> None:
    """Three bytes are as many as the position behind an end that was not found."""
    _, client, _ = await stage.served(echo_target)
    wire = request("GET", "/in-two")
    await client.send(wire[:size])
    await turns(5)
    assert (await client.answer_to(wire[size:])).body == b"/in-two"


# Pipelining.


@pytest.mark.http1_only("pipelining")
async def test_what_is_pipelined_behind_a_close_is_not_served(stage: Stage) -> None:
    _, client, origin = await stage.served(echo_target)
    await client.send(request("GET", "/1", "Connection: close") + request("GET", "/2"))
    assert (await client.read_response()).body == b"/1"
    assert await client.read_until_cut() == b""
    assert len(origin.requests) == 1


@pytest.mark.http1_only("pipelining")
async def test_endless_pipelined_bytes_are_held_back(stage: Stage) -> None:
    _, client, at_origin = await stage.asked("/slow")
    await client.send_until_stuck(request("GET", "/more") * 1000, most=64_000_000)
    await at_origin.serves(client, b"done")
    assert (await at_origin.read_request()).head.target == "/more"  # and it goes on


@pytest.mark.http1_only("pipelining")
async def test_a_thousand_pipelined_requests_without_a_server(stage: Stage) -> None:
    """Each is answered at once, inside the call that starts it: that must not nest."""
    lb = await stage.balancer(stage.nobody(), each=[{"down": True}])
    client = await stage.client(lb)
    await client.send(request("GET", "/") * 1000)
    for _ in range(1000):
        assert (await client.read_response()).status == 503


# Heads.


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
async def test_a_refused_client_that_goes_on_sending_still_reads_the_answer(stage: Stage) -> None:
    """Closing at once would make the kernel throw the answer away (RFC 9112 section 9.6)."""
    _, client, _ = await stage.line()
    await client.send(b"nonsense\r\n\r\n")
    for _ in range(10):
        await client.send(b"x" * 1000)
        await turns()
    assert (await client.read_response()).status == 400
    assert await client.read_to_end() == b""


# Deadlines.


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
@on_both_loops
async def test_a_head_that_takes_too_long_is_answered_408(stage: Stage) -> None:
    lb, client, _ = await stage.line(timeouts={"request_head": 0.1})
    assert (await client.answer_to(b"GET / HTTP/1.1\r\nHo")).status == 408
    assert await client.read_to_end() == b""
    line = await stage.log_line(lb)
    assert (line.termination, line.status, line.reached) == ("cR", 408, "")


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
async def test_dripping_bytes_does_not_prolong_a_head(stage: Stage) -> None:
    _, client, _ = await stage.line(timeouts={"request_head": 0.2})
    await client.send(b"GET / HTTP/1.1\r\nA: ")
    for _ in range(2000):
        if not await client.gets_nothing():
            break
        await client.send(b"x")
    assert (await client.read_response()).status == 408


async def test_an_idle_connection_is_closed_silently(stage: Stage) -> None:
    lb, client, _ = await stage.served(timeouts={"keep_alive": 0.1})
    assert (await client.ask()).status == 200
    assert await client.read_to_end() == b""
    assert (await stage.log_line(lb)).termination == "--"


async def test_a_connection_on_which_nothing_comes_is_closed_silently(stage: Stage) -> None:
    _, client, _ = await stage.line(timeouts={"request_head": 0.1})
    assert await client.read_to_end() == b""


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
async def test_a_client_that_leaves_in_its_head_is_logged(stage: Stage) -> None:
    lb, client, _ = await stage.line()
    await client.send(b"GET / HTTP/1.1\r\nHo")
    await turns()
    client.close()
    line = await stage.log_line(lb)
    assert (line.termination, line.status) == ("CR", -1)


@pytest.mark.http1_only("pipelining")
@pytest.mark.parametrize("ending", ["half_close", "close", "abort"])
async def test_what_a_client_pipelined_before_it_left_is_no_refusal(
    stage: Stage, ending: str
) -> None:
    """HAProxy and nginx have a line of the first request only."""
    lb, client, _ = await stage.line()
    await client.send(request("GET", "/1") + request("GET", "/2"))
    await eventually(lambda: in_flight(lb) == [1])
    getattr(client, ending)()
    line = await stage.log_line(lb)
    assert (line.termination[0], line.request) == ("C", f"GET /1 {stage.protocol}")
    assert not lb._plane.frontends[0].counters.refused


@on_both_loops
async def test_a_client_that_has_gone_before_it_was_accepted(stage: Stage) -> None:
    """The kernel may not know its address any more: nothing is done for a client without one."""
    lb, client, origin = await stage.served(echo_target)
    for _ in range(10):
        sock = socket.create_connection(client.sock.getpeername())
        sock.sendall(request("GET", "/gone"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    assert (await client.ask("/here")).body == b"/here"
    await eventually(lambda: in_flight(lb) == [0])
    # At the end of each test, each line of the log must have an address, too.
    assert {message.get("X-Forwarded-For") for message in origin.requests} == {"127.0.0.1"}


# Connection caps and counters.


async def test_a_listener_is_not_lost_for_want_of_descriptors(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lb, busy, _ = await stage.served(process={"max_connections": 1})
    assert (await busy.ask()).body == b"ok"
    (listener,) = lb._plane.frontends[0].listeners
    await eventually(lambda: not listener._servers)
    said: list[str] = []
    monkeypatch.setattr("hermes_lb.listen.listener.logger.warning", lambda *args: said.append(args))
    monkeypatch.setattr("hermes_lb.listen.listener._TRY_AGAIN", 0.01)
    lacking = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with patch.object(socket.socket, "dup", side_effect=[socket.socket(), lacking, lacking]) as dup:
        busy.close()
        await eventually(lambda: dup.call_count == 3)
    waiting = await stage.client(lb)
    assert (await waiting.ask()).body == b"ok"
    assert said == [("frontend %s can't accept: %s", "public", "Too many open files")] * 2


@on_both_loops
async def test_those_accepted_in_the_turn_that_reaches_the_limit_are_served(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving(echo_target), process={"max_connections": 2})
    address = lb.url.removeprefix("http://").split(":")
    socks = [socket.create_connection((address[0], int(address[1]))) for _ in range(12)]
    for number, sock in enumerate(socks):
        sock.sendall(request("GET", f"/{number}"))
    for number, sock in enumerate(socks):  # the loop has not turned since the first connection
        client = Client(sock)
        stage._clients.append(client)
        assert (await client.read_response()).body == b"/%d" % number
        client.close()


@on_both_loops
async def test_a_stop_amid_accepting_leaves_no_socket_behind(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    host, port = lb.url.removeprefix("http://").split(":")
    for turns_before in range(4):
        socks = [socket.create_connection((host, int(port))) for _ in range(20)]
        await turns(turns_before)
        stopping = stage.tasks.spawn(lb.stop(), name="stop") if turns_before == 3 else None
        for sock in socks:
            sock.close()
        if stopping is not None:
            await stopping
    gc.collect()  # a socket that is left warns, and a warning is an error here


async def test_idle_clients_make_room(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving(echo_target), process={"max_connections": 3})
    fresh, idle, newer = await stage.clients(lb, 1) + [await stage.client(lb), None]
    assert idle is not None
    assert (await idle.ask("/idle")).body == b"/idle"
    newer = await stage.client(lb)
    # One that has not asked yet is not idle: its request may be on its way.
    assert await idle.read_until_cut() == b""
    for client in (fresh, newer):
        assert (await client.ask("/served")).body == b"/served"


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
async def test_a_connection_that_was_refused_takes_nobodys_place(stage: Stage) -> None:
    """It lingers until its client has read why, and counts neither meanwhile nor at its end."""
    lb, kept, _ = await stage.served(limits={"connections_per_client": 1})
    assert (await kept.ask()).status == 200
    refused = await stage.clients(lb, 3)
    for client in refused:
        assert (await client.read_response()).status == 429
    kept.close()
    await eventually(lambda: not lb._context.client_limits.connections._open)
    assert len(lb._context.live.clients) == 3
    another = await stage.client(lb)
    assert (await another.ask()).status == 200
    for client in refused:
        client.close()
    await eventually(lambda: len(lb._context.live.clients) == 1)
    assert sum(lb._context.client_limits.connections._open.values()) == 1


@pytest.mark.parametrize("end", ["closes", "resets"])
async def test_a_client_that_leaves_while_we_do_not_read_is_noticed(stage: Stage, end: str) -> None:
    """Its server reads nothing, so neither do we; no event tells of the end.

    (A FIN after more bytes than the kernel takes is not sent at all, so it can't be noticed.)
    """
    lb, client, _ = await stage.begun(
        request("POST", "/", body=b"").replace(b"Length: 0", b"Length: 99999999"),
        origin_buffer=4096,
        timeouts={"request_head": "1s"},
    )
    assert lb._context is not None
    (connection,) = lb._context.live.clients
    while not connection._paused_by:
        await client.send(b"x" * 65536)
        await turns(2)
    await client.send(b"a few more")
    assert in_flight(lb) == [1]
    if end == "closes":
        client.close()
    else:
        client.abort()
    await eventually(lambda: in_flight(lb) == [0])
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (-1, "CH")


async def test_a_client_in_the_middle_of_a_request_leaves_others_alone(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    one, two = await stage.clients(lb, 2)
    await one.get("/one")
    at_one, _ = await origin.accept_request()
    await two.get("/two")
    at_two, _ = await origin.accept_request()
    assert in_flight(lb) == [2]
    one.abort()
    assert await at_one.read_until_cut() == b""
    await eventually(lambda: in_flight(lb) == [1])
    await at_two.send(response(b"2"))
    assert (await two.read_response()).body == b"2"


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
@pytest.mark.pure_only("a method is patched")
async def test_many_that_expire_at_once_do_not_hold_up_the_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No loop iteration ends more than `_AT_ONCE` of them."""
    monkeypatch.setattr("hermes_lb.proxy.deadlines._AT_ONCE", 2)
    expired: list[int] = []
    turn = 0
    real = ClientConnection._expire

    def count(connection: ClientConnection, now: float) -> None:
        expired.append(turn)
        real(connection, now)

    monkeypatch.setattr(ClientConnection, "_expire", count)
    lb = await stage.balancer(await stage.serving(), timeouts={"request_head": "300ms"})
    crowd = await stage.clients(lb, 7)
    for client in crowd:
        await client.send(b"GET / HT")
    while len(expired) < 7:
        turn += 1
        await asyncio.sleep(0)
    assert max(expired.count(each) for each in set(expired)) <= 2
    for client in crowd:
        assert (await client.read_response()).status == 408


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
@pytest.mark.parametrize("is_pipelined", [False, True], ids=["afterwards", "pipelined"])
@on_both_loops
async def test_the_second_head_has_no_more_time_than_the_first(
    stage: Stage, is_pipelined: bool
) -> None:
    lb, client, _ = await stage.served(timeouts={"request_head": 0.2, "keep_alive": 3600})
    half = b"GET /second HTTP/1.1\r\nHo"
    await client.send(request("GET", "/first") + (half if is_pipelined else b""))
    assert (await client.read_response()).body == b"ok"
    if not is_pipelined:
        await client.send(half)
    assert (await client.read_response()).status == 408
    assert await client.read_to_end() == b""
    first, second = await stage.logged(lb, 2)
    assert (first.status, second.termination) == (200, "cR")
