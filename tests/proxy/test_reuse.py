"""A kept connection with input, or an end, that nothing has read yet is not written to.

Whatever came before a request belongs to none. The kernel is asked once for all requests of a loop
iteration, just before they are written.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from hermes_lb.proxy.http1.upstream import UpstreamConnection
from tests.proxy.fake_line import Line, Wire
from tests.support.http_peer import request, response
from tests.support.loops import on_both_loops
from tests.support.waiting import turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.observe.record import LogRecord
    from tests.support.stage import Stage

    News = Callable[[Wire], None]

GET, POST = request("GET", "/"), request("POST", "/", "Content-Length: 2") + b"hi"
OK = response(b"ok")
STRAY = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"


def unread(wire: Wire) -> None:
    wire.kernel.sendall(STRAY)


def ended(wire: Wire) -> None:
    wire.kernel.shutdown(socket.SHUT_WR)


@pytest.fixture(params=[unread, ended])
def news(request: pytest.FixtureRequest) -> News:
    return cast("News", request.param)


@pytest.fixture(params=[GET, POST], ids=["GET", "POST"])
def asked(request: pytest.FixtureRequest) -> bytes:
    return cast("bytes", request.param)


def taken(wire: Wire) -> bytes:
    got = bytes(wire.got)
    wire.got.clear()
    return got


def requests(line: Line) -> list[int]:
    """Requests since the last look, on each connection to a server."""
    return [taken(wire).count(b" / HTTP/1.1\r\n") for wire in line.servers]


async def kept(line: Line, *clients: Wire) -> list[Wire]:
    """A kept connection for each client, the one that is used next last."""
    for client in clients:
        await client.sends(GET)
    for server in line.servers:
        await server.sends(OK)
    assert requests(line) == [1] * len(clients)
    assert [taken(client)[-2:] for client in clients] == [b"ok"] * len(clients)
    return list(line.servers)


async def gets_an_answer(line: Line, client: Wire) -> None:
    """By the connection that was dialled last; and no server has failed."""
    await line.server.sends(OK)
    assert taken(client).endswith(b"ok")
    assert (line.failures, line.ends) == ([], [])


async def test_what_was_there_before_the_request(news: News, asked: bytes) -> None:
    async with Line() as line:
        (first,) = await kept(line, line.client)
        news(first)
        await line.client.sends(asked)
        assert requests(line) == [0, 1]
        assert first.is_aborted
        await gets_an_answer(line, line.client)


@pytest.mark.pure_only("a method is patched")
async def test_what_comes_between_the_pick_and_the_write(
    news: News, asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Line() as line:
        (first,) = await kept(line, line.client)
        send_request = UpstreamConnection.send_request

        def and_then(upstream: UpstreamConnection, *given: Any) -> None:
            send_request(upstream, *given)
            if upstream.transport is first:
                news(first)

        monkeypatch.setattr(UpstreamConnection, "send_request", and_then)
        await line.client.sends(asked)
        assert requests(line) == [0, 1]
        await gets_an_answer(line, line.client)


def reported(wire: Wire) -> None:
    wire._protocol.data_received(STRAY)


def reported_end(wire: Wire) -> None:
    wire._protocol.eof_received()


def reported_loss(wire: Wire) -> None:
    wire._is_closing = True  # as it is by then
    wire._protocol.connection_lost(ConnectionResetError())


@pytest.mark.parametrize("report", [reported, reported_end, reported_loss])
async def test_what_the_loop_reports_before_the_write(
    report: Callable[[Wire], None], asked: bytes
) -> None:
    """A request that does not begin in a batch waits for the next one: the loop reads before."""
    async with Line() as line:
        (first,) = await kept(line, line.client)
        line.connection.process(asked)
        report(first)
        await turns(12)
        assert requests(line) == [0, 1]
        await gets_an_answer(line, line.client)


async def test_others_of_the_same_batch_are_not_affected(news: News, asked: bytes) -> None:
    async with Line() as line:
        clients = [line.client, line.accepts(), line.accepts()]
        first, second, third = await kept(line, *clients)
        news(second)
        for client in clients:
            client._protocol.data_received(asked)
        await turns(12)
        assert requests(line) == [1, 0, 1, 1]
        for server in (first, third, line.server):
            await server.sends(OK)
        assert [taken(client)[-2:] for client in clients] == [b"ok"] * 3
        assert (line.failures, line.ends) == ([], [])


async def test_one_that_is_given_back_and_taken_in_the_same_batch(news: News) -> None:
    """The place of one request is the next one's, and so is its connection."""
    async with Line(server={"max_connections": 1}) as line:
        first, second = line.client, line.accepts()
        await first.sends(GET)
        await second.sends(GET)
        assert requests(line) == [1]
        news(line.server)
        await line.server.sends(OK)
        assert taken(first).endswith(b"ok")
        assert requests(line) == [0, 1]
        await gets_an_answer(line, second)


async def test_all_kept_ones_have_ended(news: News, asked: bytes) -> None:
    """The next one is looked at as well, and in the end there is a new one."""
    async with Line() as line:
        for one in await kept(line, line.client, line.accepts(), line.accepts()):
            news(one)
        await line.client.sends(asked)
        assert requests(line) == [0, 0, 0, 1]
        await gets_an_answer(line, line.client)


async def test_the_log_has_no_time_of_a_connection_that_was_not_used() -> None:
    """Neither of the one that had ended nor of the dial that failed: HAProxy's Tc is -1."""
    records: list[LogRecord] = []

    def noted(record: LogRecord) -> str:
        records.append(record)
        return "--"

    async with Line(backend={"retries": 0}) as line:
        (first,) = await kept(line, line.client)
        ended(first)
        line.refuses = True
        line.context.log.recorder.line = noted
        await line.client.sends(GET)
        (record,) = records
        assert (record.termination, record.to_server.connect) == ("SC--", None)


async def test_an_upload_in_parts_is_looked_at_when_it_takes_a_connection(news: News) -> None:
    """Its first part is not kept for ever, so it can't be sent again later."""
    async with Line(limits={"retry_buffer": 0}) as line:
        (first,) = await kept(line, line.client)
        news(first)
        await line.client.sends(request("POST", "/", "Content-Length: 4") + b"hi")
        await line.client.sends(b"ho")
        assert requests(line) == [0, 1]
        await gets_an_answer(line, line.client)


@pytest.mark.parametrize("on_disconnect", ["abort", "detach"])
async def test_a_client_that_leaves_before_the_write(
    news: News, asked: bytes, on_disconnect: str
) -> None:
    route = {"path_prefix": "/", "backend": "b", "on_disconnect": on_disconnect}
    async with Line(frontend={"routes": [route]}) as line:
        (first,) = await kept(line, line.client)
        news(first)
        line.connection.process(asked)
        line.connection.eof_received()
        await turns(12)
        assert requests(line) == [0]
        assert (line.failures, line.ends, line.pool.in_flight) == ([], ["CH"], 0)


@pytest.mark.http1_only("bytes are given to the connection itself")
@on_both_loops
@pytest.mark.parametrize("wire", [GET, POST], ids=["GET", "POST"])
async def test_late_bytes_and_the_next_request_in_one_iteration(stage: Stage, wire: bytes) -> None:
    """With real sockets, in which both are before the loop looks."""
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    for _ in range(10):
        client.sock.send(wire)
        at_origin, _ = await origin.accept_request()
        await at_origin.send(OK)
        assert (await client.read_response()).body == b"ok"
        at_origin.sock.send(STRAY)
    assert (await stage.logged(lb, 10))[-1].retries == "0"
