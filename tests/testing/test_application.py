"""aiohttp's applications: as servers behind a balancer, and with a balancer of their own."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from hermes_lb.testing import (
    LOAD_BALANCER,
    Answer,
    Request,
    Rig,
    Server,
    balancer_context,
    config_for,
    eventually,
    faults,
)
from hermes_lb.testing.application import Application
from tests.support.aiohttp_client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.testing.connection import Wire
    from hermes_lb.testing.messages import Reply
    from tests.support.aiohttp_client import Balanced, Servers


async def hello(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path, "body": await request.text()})


async def long(request: web.Request) -> web.Response:
    return web.Response(text="x" * 10_000)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for token in ("a", "b"):
        await response.write(token.encode())
    return response


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=request.query)
    await response.prepare(request)
    await response.write(b"a")
    raise ConnectionAbortedError


async def mute(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(f"{message.data}!")
    return ws


async def twice(request: web.Request) -> web.WebSocketResponse:
    """Concurrent requests."""
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    async for message in ws:
        await asyncio.gather(ws.send_str(message.data), ws.send_str(message.data))
    return ws


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/hello", hello)
    app.router.add_get("/long", long)
    app.router.add_get("/stream", stream)
    app.router.add_get("/cut", cut)
    app.router.add_get("/mute", mute)
    app.router.add_get("/echo", echo)
    app.router.add_get("/twice", twice)
    return app


async def test_an_application_is_a_server(
    balanced_servers: Servers, load_balancer: Balanced
) -> None:
    servers = await balanced_servers(2, app=make_app)
    lb = await load_balancer(*servers, balance="round_robin")
    async with aiohttp.ClientSession(lb.url) as session:
        for _ in range(2):
            async with session.post("/hello", data=b"body") as response:
                assert await response.json() == {"path": "/hello", "body": "body"}
        async with session.get("/stream") as response:
            assert await response.read() == b"ab"
        async with session.head("/hello") as response:
            assert response.status == 200
    assert await lb.served(4) == ["one", "two", "one", "two"]
    assert [request.method for request in servers[0].requests] == ["POST", "GET"]


async def test_its_connections_are_kept_alive(
    balanced_servers: Servers, load_balancer: Balanced
) -> None:
    [one] = await balanced_servers(app=make_app())
    lb = await load_balancer(one)
    async with Client() as client:
        await client.get(f"{lb.url}/hello")
        await client.get(f"{lb.url}/stream")
    assert (len(one.requests), one.accepted) == (2, 1)


async def test_an_application_misbehaves_on_demand(
    balanced_servers: Servers, load_balancer: Balanced
) -> None:
    [one] = await balanced_servers(app=make_app())
    lb = await load_balancer(one, retries=0)
    cut: list[faults.Fault] = [faults.WrongLength(1), faults.ResetAfter(1000)]
    async with Client() as client:
        for number, fault in enumerate(cut):
            one.fault = fault
            with pytest.raises(aiohttp.ClientPayloadError):
                await client.get(f"{lb.url}/long")
            assert (await lb.record(number)).termination == "SD"
        one.fault = faults.Fail(503)
        assert await client.get(f"{lb.url}/hello") == (503, "one fails\n")
        one.fault = faults.Stall()
        stalled = client.start_get(f"{lb.url}/stream")
        await one.asked(4)
        assert lb.in_flight == {"one": 1}
        one.fault = None
        assert await stalled == (200, "ab")


@pytest.mark.parametrize("framing", ["", "?Content-Length=2"])
async def test_a_stream_that_an_application_cuts_is_cut(
    balanced_servers: Servers, framing: str
) -> None:
    [one] = await balanced_servers(app=make_app())
    async with Client() as client:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.get(f"{one.url}/cut{framing}")
    assert one.errors == []


async def test_an_application_that_ends_the_connection_has_it_ended(
    balanced_servers: Servers,
) -> None:
    [one] = await balanced_servers(app=make_app())
    async with Client() as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.get(f"{one.url}/mute")
    assert one.errors == []


async def test_its_websocket_is_reached(balanced_servers: Servers, load_balancer: Balanced) -> None:
    [one] = await balanced_servers(app=make_app())
    lb = await load_balancer(one)
    async with (
        aiohttp.ClientSession(lb.url) as session,
        session.ws_connect("/echo") as ws,
    ):
        await ws.send_str("hi")
        assert await ws.receive_str() == "hi!"
    assert (await lb.record()).status == 101


class Watched(faults.Fault):
    """It behaves well, and remembers the pieces of the last reply."""

    pieces: list[bytes] = []  # noqa: RUF012 - the class's own

    async def send(self, reply: Reply, wire: Wire) -> None:
        self.pieces.clear()
        async for piece in reply.pieces:
            self.pieces.append(piece)
            await wire.send(piece)


async def test_each_write_of_an_application_is_a_piece_of_its_stream(
    balanced_servers: Servers,
) -> None:
    [one] = await balanced_servers(app=make_app())
    one.fault = watched = Watched()
    async with Client() as client:
        assert await client.get(f"{one.url}/stream") == (200, "ab")
        assert watched.pieces[1:] == [b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"]
        for path in ("/stream", "/hello"):
            async with client.session.head(one.url + path) as response:
                assert response.status == 200
            assert len(watched.pieces) == 1
        assert (await client.get(f"{one.url}/long"))[1] == "x" * 10_000
        assert sum(map(len, watched.pieces[1:])) == 10_000


async def test_each_frame_of_an_application_is_a_piece_of_its_stream(
    balanced_servers: Servers,
) -> None:
    [one] = await balanced_servers(app=make_app())
    one.fault = watched = Watched()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{one.url}/twice") as ws:
        await ws.send_str("hi")
        assert [await ws.receive_str() for _ in range(2)] == ["hi", "hi"]
        assert watched.pieces[1:] == [b"\x81\x02hi"] * 2


async def tokens(request: Request) -> Answer:
    """The output of `stream`, from a handler."""

    async def both() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    return Answer(200, {"Content-Type": "application/octet-stream"}, both())


@pytest.mark.parametrize(
    "fault",
    [
        faults.Refuse(),
        faults.ResetAfter(0),
        faults.ResetAfter(10),
        faults.ResetAfter(1000),
        faults.CloseAfter(0),
        faults.CloseAfter(10),
        faults.CloseAfter(1000),
        faults.Stall(),
        faults.Stall(after=10),
        faults.SlowTokens(0.001),
        faults.WrongLength(),
        faults.WrongLength(by=-1),
        faults.Garbage(),
        faults.Fail(),
    ],
    ids=repr,
)
async def test_a_stream_of_an_application_has_the_same_faults_as_a_handlers(
    fault: faults.Fault, balanced_servers: Servers, load_balancer: Balanced
) -> None:
    seen = []
    for kind in ({"handler": tokens}, {"app": make_app()}):
        [server] = await balanced_servers(1, names=["same"], **kind)
        lb = await load_balancer(server, retries=0, timeouts={"server": "50ms"})
        server.fault = fault
        async with Client() as client:
            try:
                status, text = await client.get(f"{lb.url}/stream")
                answer = f"{status} {text}"
            except aiohttp.ClientPayloadError:
                answer = "cut"
        record = await lb.record()
        seen.append((answer, record.termination, record.status))
    handlers, applications = seen
    assert applications == handlers


async def test_a_server_has_nothing_in_flight_once_its_application_has_answered(
    balanced_servers: Servers,
) -> None:
    """Not even if the application keeps the connection: it was asked for a WebSocket."""
    [one] = await balanced_servers(app=make_app())
    async with aiohttp.ClientSession() as session:
        for path in ("/echo", "/hello", "/stream"):  # the first wants a key
            headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
            async with session.get(one.url + path, headers=headers) as response:
                await response.read()
            await eventually(lambda: one.in_flight == 0)


async def test_an_application_that_does_not_start_leaves_nothing_behind() -> None:
    steps = []

    async def context(app: web.Application) -> AsyncIterator[None]:
        steps.append("begun")
        yield
        steps.append("ended")

    async def fail(app: web.Application) -> None:
        raise RuntimeError("does not start")

    app = web.Application()
    app.cleanup_ctx.append(context)
    app.on_startup.append(fail)
    server = Server("one", application=Application(app))
    port = int(server.address.split(":")[1])
    with pytest.raises(RuntimeError, match="does not start"):
        async with server:
            pass
    assert steps == ["begun", "ended"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


async def test_one_application_cannot_be_two_servers(balanced_servers: Servers) -> None:
    with pytest.raises(TypeError, match="function"):
        await balanced_servers(2, app=make_app())


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client() as running:
        yield running


@pytest.mark.parametrize("is_known_late", [False, True])
async def test_an_application_carries_a_balancer(client: Client, is_known_late: bool) -> None:
    async with Rig() as rig:
        [one] = await rig.servers()
        app = web.Application()

        def late(app: web.Application) -> dict[str, Any]:
            return config_for(one)

        app.cleanup_ctx.append(balancer_context(late if is_known_late else config_for(one)))
        runner = web.AppRunner(app)
        await runner.setup()
        lb = app[LOAD_BALANCER]
        assert await client.get(lb.url) == (200, "one")
        assert await lb.served() == ["one"]
        await runner.cleanup()
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(f"{lb.url}/again")
