"""A drain, and a frontend that a reload takes out: no request is lost that is on its way."""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.stage import Stage
from tests.support.waiting import eventually, turns
from tests.support.websocket import WEBSOCKET, switch

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from hermes_lb.proxy.http1.client import ClientConnection
    from tests.support.http_peer import Client

# No request waits in a queue here; the sweep is as fine as the shortest deadline requires.
QUICK = {"queue": "40ms"}
REQUEST = request("GET", "/")
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


async def drained(stage: Stage, lb: LoadBalancer) -> Callable[[], bool]:
    """A drain has begun -> has it ended well?"""
    draining = stage.tasks.spawn(lb.drain(30), name="drain")
    await eventually(lambda: lb.is_draining)
    await turns(20)
    return lambda: draining.done() and draining.result()


async def taken_out(stage: Stage, lb: LoadBalancer) -> Callable[[], bool]:
    """The frontend is gone -> are its clients?"""
    context = lb._context
    (before,) = lb._plane.frontends
    (configured,) = lb.config.frontends
    another = configured.model_copy(update={"name": "another"})
    await lb.reconfigure(lb.config.model_copy(update={"frontends": [another]}))
    lb._plane.frontends[0].counters = before.counters  # the stage counts these requests, too
    return lambda: not context.live.clients


GracefulClose = Callable[[Stage, "LoadBalancer"], Awaitable[Callable[[], bool]]]
both_ways = pytest.mark.parametrize("close", [drained, taken_out])


def connection(lb: LoadBalancer) -> ClientConnection:
    (client,) = lb._context.live.clients
    return client


async def accepted(stage: Stage, lb: LoadBalancer) -> Client:
    """A client whose connection has been accepted, and has sent nothing."""
    there = len(lb._context.live.clients)
    client = await stage.client(lb)
    await eventually(lambda: len(lb._context.live.clients) > there)
    return client


async def is_served_for_the_last_time(client: Client) -> bool:
    """Both must hold: the response says so, and the connection ends cleanly behind it."""
    answer = await client.read_response()
    assert answer.status == 200
    return answer.get("Connection") == client.closes and await client.read_to_end() == b""


async def served_before(stage: Stage, lb: LoadBalancer) -> Client:
    """A client between two requests."""
    client = await accepted(stage, lb)
    assert (await client.ask("/before")).get("Connection") is None
    await eventually(lambda: connection(lb).is_idle)
    return client


async def half_a_head(stage: Stage, lb: LoadBalancer) -> Client:
    client = await accepted(stage, lb)
    await client.send(REQUEST[:10])
    await eventually(lambda: bool(connection(lb)._held))
    return client


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
@on_both_loops
@both_ways
@pytest.mark.parametrize(
    ("before", "rest"),
    [(accepted, REQUEST), (half_a_head, REQUEST[10:]), (served_before, REQUEST)],
)
async def test_a_client_gets_one_more_response(
    stage: Stage,
    close: GracefulClose,
    before: Callable[[Stage, LoadBalancer], Awaitable[Client]],
    rest: bytes,
) -> None:
    lb = await stage.balancer(await stage.serving(), timeouts=QUICK)
    client = await before(stage, lb)
    is_over = await close(stage, lb)
    assert not is_over()
    await client.send(rest)
    assert await is_served_for_the_last_time(client)
    await eventually(is_over)


@both_ways
async def test_a_silent_client_is_not_waited_for(stage: Stage, close: GracefulClose) -> None:
    """Neither between two requests, nor if there was none for longer than it takes to ask."""
    lb = await stage.balancer(await stage.serving(), timeouts={**QUICK, "request_head": "1h"})
    idle = await served_before(stage, lb)
    silent = await accepted(stage, lb)
    with patch("hermes_lb.proxy.http1.client._FRESH", -1.0):
        is_over = await close(stage, lb)
    await eventually(is_over)
    assert await idle.read_to_end() == b""
    assert await silent.read_to_end() == b""


@pytest.mark.slow
@both_ways
async def test_a_new_connection_keeps_its_time_for_a_head(
    stage: Stage, close: GracefulClose
) -> None:
    lb = await stage.balancer(await stage.serving(), timeouts={"request_head": "2s"})
    client = await accepted(stage, lb)
    deadline = connection(lb).deadline
    is_over = await close(stage, lb)
    assert connection(lb).deadline == deadline
    await eventually(is_over)
    assert await client.read_to_end() == b""


@both_ways
async def test_a_response_that_begins_afterwards_is_the_last(
    stage: Stage, close: GracefulClose
) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, timeouts=QUICK)
    client = await accepted(stage, lb)
    await client.get()
    at_origin, _ = await origin.accept_request()
    is_over = await close(stage, lb)
    await at_origin.respond(b"ok")
    assert await is_served_for_the_last_time(client)
    await eventually(is_over)


@both_ways
async def test_a_response_that_has_begun_is_not_the_last(
    stage: Stage, close: GracefulClose
) -> None:
    """Its head had left before the end was known."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, timeouts=QUICK)
    client = await accepted(stage, lb)
    await client.get("/stream")
    at_origin, _ = await origin.accept_request()
    await at_origin.send(STREAM)
    await client.read_until(b"x\r\n")
    is_over = await close(stage, lb)
    await at_origin.send(b"0\r\n\r\n")
    await client.read_until(b"0\r\n\r\n")
    await eventually(lambda: connection(lb).is_idle)
    await client.get("/once-more")
    if close is drained:  # the server's connection has gone with the drain
        at_origin = await origin.accept()
    await at_origin.read_request()
    await at_origin.respond(b"ok")
    assert await is_served_for_the_last_time(client)
    await eventually(is_over)


@pytest.mark.http1_only("pipelining")
@both_ways
async def test_pipelined_requests_do_not_delay_the_end(stage: Stage, close: GracefulClose) -> None:
    """Of many requests that wait one behind the other, only the first is answered."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, timeouts=QUICK)
    client = await accepted(stage, lb)
    await client.send(request("GET", "/1") + request("GET", "/2"))
    at_origin, _ = await origin.accept_request()
    is_over = await close(stage, lb)
    await at_origin.respond(b"1")
    assert await is_served_for_the_last_time(client)
    client.close()
    await eventually(is_over)
    assert (await stage.log_line(lb)).request == f"GET /1 {stage.protocol}"


@both_ways
async def test_a_tunnel_goes_on(stage: Stage, close: GracefulClose) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, timeouts=QUICK)
    client = await accepted(stage, lb)
    await client.get("/chat", *WEBSOCKET)
    at_origin, _ = await origin.accept_request()
    await switch(client, at_origin)
    is_over = await close(stage, lb)
    await client.send(b"ping")
    assert await at_origin.read_exactly(4) == b"ping"
    assert not is_over()
    client.close()
    await at_origin.read_to_end()
    at_origin.close()
    await eventually(is_over)


@pytest.mark.http1_only("a head comes in bytes: tests/http2/test_connections.py")
@on_both_loops
@pytest.mark.parametrize("late", [0.0, 60.0])
async def test_an_idle_client_whose_request_is_unread_is_not_closed(
    stage: Stage, late: float
) -> None:
    """It came while the loop was busy with others whose time is up, or the process stood still."""
    lb = await stage.balancer(await stage.serving())
    client = await served_before(stage, lb)
    at_lb = connection(lb)
    for path in ("/in-time", "/and-again"):
        client.sock.send(request("GET", path))
        at_lb.sweep(at_lb.deadline + late)  # in the same turn
        assert (await client.read_response()).status == 200


async def test_unread_bytes_that_say_nothing_do_not_keep_a_connection(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving())
    client = await served_before(stage, lb)
    at_lb = connection(lb)
    client.sock.send(b"\r")
    for _ in range(2):
        at_lb.sweep(at_lb.deadline)
    await client.read_until_cut()


async def test_without_a_drain_an_idle_client_is_kept(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving(), timeouts=QUICK)
    client = await served_before(stage, lb)
    now = lb.now()
    assert connection(lb).deadline > now + 60.0
    assert (await client.ask("/again")).get("Connection") is None


def waiting(lb: LoadBalancer) -> int:
    """How many connections the kernel has for its listener: `tcpi_unacked` (linux/tcp.h)."""
    (listener,) = lb._plane.frontends[0].listeners
    info = listener.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int.from_bytes(info[24:28], sys.byteorder)


@pytest.mark.http1_only("a connection before its preface is one of HTTP/1.1")
@on_both_loops
async def test_a_client_accepted_in_this_iteration_is_served(stage: Stage) -> None:
    """On asyncio's own loop a task makes a connection of it, some turns later."""
    lb = await stage.balancer(await stage.serving(), timeouts=QUICK)
    lb._plane.frontends[0].pause()
    await eventually(lambda: not lb._plane.frontends[0].listeners[0]._retired)
    clients = await stage.clients(lb, 3)
    assert waiting(lb) == 3
    lb._plane.frontends[0].resume()
    while waiting(lb):
        await turns(1)
    is_over = await drained(stage, lb)
    for client in clients:
        await client.get()
        assert await is_served_for_the_last_time(client)
    await eventually(is_over)
