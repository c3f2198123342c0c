"""The end of a response and the FIN leave together, so the balancer closes first."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

import pytest

from hermes_lb.transport.kernel import write_last
from tests.support.http_peer import request, response
from tests.support.loops import on_both_loops
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.stage import Stage


class Told(asyncio.Protocol):
    """How the connection of a transport ended: a list of at most one."""

    def __init__(self) -> None:
        self.ends: list[Exception | None] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)


class Pair:
    """A transport of the running loop, and the blocking socket of its peer."""

    def __init__(self, transport: asyncio.Transport, told: Told, peer: socket.socket) -> None:
        self.transport, self.told, self.peer = transport, told, peer

    def received(self) -> tuple[bytes, bool]:
        """The bytes that are there now, and whether the end is."""
        data = b""
        while True:
            try:
                more = self.peer.recv(1 << 20)
            except BlockingIOError:
                return data, False
            if not more:
                return data, True
            data += more

    async def received_in_the_end(self) -> bytes:
        data, is_all = self.received()
        while not is_all:
            await turns(1)
            more, is_all = self.received()
            data += more
        return data


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    peer.setblocking(False)
    transport, told = await loop.connect_accepted_socket(Told, ours)
    yield Pair(transport, told, peer)
    peer.close()
    if not told.ends:
        transport.abort()
        await eventually(lambda: told.ends)


@on_both_loops
async def test_the_end_comes_with_the_last_bytes(pair: Pair) -> None:
    write_last(pair.transport, b"last")
    assert pair.received() == (b"last", True)
    assert pair.transport.is_closing()
    await eventually(lambda: pair.told.ends == [None])


@on_both_loops
async def test_what_is_in_the_write_buffer_comes_first(pair: Pair) -> None:
    first = bytes(20_000_000)
    pair.transport.write(first)
    taken, _ = pair.received()  # the kernel has room again, and the loop has not noticed
    write_last(pair.transport, b"last")
    assert taken + await pair.received_in_the_end() == first + b"last"


@on_both_loops
async def test_what_the_kernel_does_not_take_is_written_later(pair: Pair) -> None:
    last = bytes(range(256)) * 100_000
    write_last(pair.transport, last)
    assert await pair.received_in_the_end() == last


@on_both_loops
async def test_a_full_kernel_takes_nothing(pair: Pair) -> None:
    sent = 0
    sock = pair.transport.get_extra_info("socket")
    with socket.socket(fileno=sock.fileno()) as ours:
        try:
            while True:
                sent += ours.send(bytes(100_000))
        except BlockingIOError:
            ours.detach()
    write_last(pair.transport, b"last")
    assert await pair.received_in_the_end() == bytes(sent) + b"last"


@on_both_loops
@pytest.mark.parametrize("by_reset", [True, False])
async def test_a_peer_that_has_gone(pair: Pair, by_reset: bool) -> None:
    """By a reset: the write fails. By a FIN: the write resets the connection."""
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", by_reset, 0))
    pair.peer.close()
    write_last(pair.transport, b"last")
    await eventually(lambda: pair.told.ends)


@on_both_loops
async def test_a_closed_transport_drops_it(pair: Pair) -> None:
    """Its descriptor may be another connection's by now."""
    pair.transport.abort()
    write_last(pair.transport, b"last")
    assert (await pair.received_in_the_end()) == b""


@pytest.mark.http1_only("bytes are compared")
@on_both_loops
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_response_that_closes(stage: Stage, version: str) -> None:
    """No loop iteration is between its end and the FIN."""
    origin = await stage.origin()
    lb = await stage.balancer(origin)
    client = await stage.client(lb)
    await client.send(request("GET", "/", "Connection: close", version=version))
    at_origin, _ = await origin.accept_request()
    at_origin.sock.send(response(b"ok"))
    pair = Pair(cast("asyncio.Transport", None), Told(), client.sock)
    data, is_all = pair.received()
    while not data:
        await turns(1)
        data, is_all = pair.received()
    assert (data[-6:], is_all) == (b"\r\n\r\nok", True)
