"""Features of the exchange with servers by HTTP/2: they see one framing of bodies (`ports`)."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.errors import NotProcessed
from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http2.upstream_stream import UpstreamStream
from tests.http2.test_shared_connections import POST
from tests.http2.test_upstreams import H2, asked, line
from tests.proxy.fakes import Scene, turns
from tests.support.certificates import authority, ca_file, server_context
from tests.support.http2_origin import Http2AtOrigin, http2_at
from tests.support.http_peer import Ended
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight
from tests.support.tls import accept_tls
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from tests.support.stage import Stage

EVENTS = ("content-type", "text/event-stream")


# TLS.


def trusting(tmp_path: Path) -> dict[str, Any]:
    return {**H2, "tls": {"ca": ca_file(tmp_path)}}


def context_of_server() -> ssl.SSLContext:
    return server_context(authority().issue_cert("127.0.0.1"))


@on_both_loops
async def test_by_alpn(stage: Stage, tmp_path: Path) -> None:
    _, client, origin = await stage.line(backend=trusting(tmp_path))
    context = context_of_server()
    context.set_alpn_protocols(["http/1.1", "h2"])
    await client.get("/")
    at_origin = await accept_tls(origin, context)
    assert at_origin.tls.selected_alpn_protocol() == "h2"
    connection = Http2AtOrigin(at_origin)
    for _ in range(2):
        request = await connection.request()
        assert request.get(":scheme") == "https"
        await connection.respond(request, b"hello")
        assert (await client.read_response()).body == b"hello"
        await client.get("/next")
    assert await origin.has_no_new_connection()


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
async def test_a_server_that_does_not_choose_it(
    stage: Stage, tmp_path: Path, protocols: list[str]
) -> None:
    lb, client, origin = await stage.line(backend={**trusting(tmp_path), "retries": 0})
    context = context_of_server()
    if protocols:
        context.set_alpn_protocols(protocols)
    await client.send(POST)
    with suppress(Ended):  # the balancer has left by then
        await accept_tls(origin, context)
    assert (await client.read_response()).status == 503
    logged = await stage.log_line(lb)
    assert logged.termination[:2] == "SC"
    assert "it does not speak HTTP/2: it did not choose h2 by ALPN" in logged.reason


# The exchange between fakes: it knows no version.


@pytest.mark.pure_only("fakes can't be subclasses of a compiled trait")
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_what_was_not_processed_is_asked_again_at_the_same_server(method: bytes) -> None:
    async with Scene() as scene:
        head = method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        await scene.ask(head)
        for _ in range(3):
            side = scene.server
            assert side.sink is not None
            side.sink.server_failed(NotProcessed("refused"))
            await turns()
            assert scene.server is not side
        server = scene.backend.pool.servers[0]
        assert (server.fails, server.counters.retries) == (0, 3)
        side = scene.server
        assert side.sink is not None
        side.sink.server_failed(NotProcessed("refused"))
        assert scene.client.calls[-2:] == [("reply", 503, True), ("done", True)]
        assert scene.ends == ["SH"]


@pytest.mark.pure_only("fakes can't be subclasses of a compiled trait")
async def test_it_is_asked_of_another_server() -> None:
    async with Scene(servers=2) as scene:
        await scene.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        first = scene.server
        assert first.sink is not None
        first.sink.server_failed(NotProcessed("refused"))
        await turns()
        assert scene.server.server is not first.server
        assert first.server.fails == 0


# Streams that go on, sessions that are learned, clients that leave.


@on_both_loops
async def test_a_stream_goes_on_at_another_server(stage: Stage) -> None:
    first, second = await stage.origin(), await stage.origin()
    routes = [{"path_prefix": "/", "backend": "agents", "resume": True}]
    lb = await stage.balancer(
        first, second, backend={**H2, "balance": "round_robin"}, frontend={"routes": routes}
    )
    client = await stage.client(lb)
    await client.get("/talk")
    at_first = await http2_at(first)
    request = await at_first.request()
    await at_first.head(request, EVENTS, ("x-hermes-resume", "/events?turn=1"))
    await at_first.data(request, b"id: 1\ndata: a\n\nid: 2\nda")
    head = await client.read_head()
    assert head.get("Transfer-Encoding") == "chunked"
    assert await client.read_chunk() == b"id: 1\ndata: a\n\n"
    await at_first.reset(request, 2)
    at_second = await http2_at(second)
    again = await at_second.request()
    assert again.get(":path") == "/events?turn=1"
    assert again.get("last-event-id") == "1"
    await at_second.head(again, EVENTS)
    await at_second.data(again, b"id: 2\ndata: b\n\nevent: done\ndata: {}\n\n", ends=True)
    rest = b""
    while part := await client.read_chunk():
        rest += part
    assert rest.endswith(b"id: 2\ndata: b\n\nevent: done\ndata: {}\n\n")
    assert (await stage.log_line(lb)).termination[:2] == "--"


async def test_many_events_in_one_frame(stage: Stage) -> None:
    """More than one feed parses: the rest is behind, and its end comes in order."""
    routes = [{"path_prefix": "/", "backend": "agents", "resume": True}]
    lb, client, origin = await line(stage, frontend={"routes": routes})
    await client.get("/talk")
    at_origin = await http2_at(origin)
    request = await at_origin.request()
    await at_origin.head(request, EVENTS, ("x-hermes-resume", "/e"))
    events = b"id: 1\ndata: 1\n\n" * 4000
    await at_origin.data(request, events, ends=True)
    await client.read_head()
    received = b""
    while part := await client.read_chunk():
        received += part
    assert received == events
    await eventually(lambda: in_flight(lb) == [0])


@pytest.mark.parametrize("how", ["at once", "in two parts"])
async def test_a_session_is_learned_before_its_client_has_it(stage: Stage, how: str) -> None:
    first, second = await stage.origin(), await stage.origin()
    stick = [{"on": "header:X-Session", "learn": True}]
    lb = await stage.balancer(first, second, backend={**H2, "stick": stick})
    client = await stage.client(lb)
    await client.send(POST)
    at_first = await http2_at(first)
    request = await at_first.request()
    if how == "at once":
        await at_first.respond(request, b"new", ("x-session", "s1"))
    else:
        await at_first.head(request, ("x-session", "s1"))
        await at_first.data(request, b"new", ends=True)
    assert (await client.read_response()).body == b"new"
    for _ in range(3):
        await client.get("/", "X-Session: s1")
        await at_first.respond(await at_first.request(), b"here")
        assert (await client.read_response()).body == b"here"


async def test_a_server_finishes_for_a_client_that_has_left(stage: Stage) -> None:
    routes = [{"path_prefix": "/", "backend": "agents", "on_disconnect": "detach"}]
    lb, client, at_origin, request = await asked(stage, frontend={"routes": routes})
    await at_origin.head(request)
    await at_origin.data(request, b"begin")
    await client.read_until(b"begin")
    client.abort()
    await stage.log_line(lb)
    assert in_flight(lb) == [1]
    await at_origin.data(request, b"x" * 300_000, ends=True)  # all of it is taken
    await eventually(lambda: in_flight(lb) == [0])
    assert request.reset_with is None


async def test_the_operator_ends_a_session(stage: Stage) -> None:
    lb, client, at_origin, request = await asked(stage)
    await at_origin.head(request)
    await client.read_head()
    assert lb._plane.end_sessions(backend="agents", server="agent1") == 1
    assert await at_origin.was_reset(request) == 8
    with pytest.raises(Ended):
        await client.read_exactly(1)


async def test_nothing_is_left_to_the_collector(stage: Stage) -> None:
    _, client, origin = await line(stage)
    at_origin = None
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await client.post(b"x" * 1000)
            at_origin = at_origin or await http2_at(origin)
            await at_origin.respond(await at_origin.request(), b"ok")
            assert (await client.read_response()).body == b"ok"
        left = [one for one in gc.get_objects() if isinstance(one, Exchange | UpstreamStream)]
        assert left == []
    finally:
        gc.enable()
