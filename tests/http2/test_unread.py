"""Clients that do not read: what waits for them is bounded, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.http2.test_requests import HTTP2
from tests.support.http2_peer import Http2Client
from tests.support.loops import on_both_loops
from tests.support.stage import in_flight
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stage import Stage

UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
WIDEST = 2**31 - 1
INITIAL_WINDOW_SIZE = 4


@on_both_loops
async def test_its_windows_are_wide_and_it_reads_nothing(stage: Stage) -> None:
    """Its connection is full, not its streams' windows: their servers wait all the same."""
    origin = await stage.origin()
    lb = await stage.balancer(origin, **HTTP2)
    client = Http2Client(await stage.client(lb, receive_buffer=4096))
    client.http2.update_settings({INITIAL_WINDOW_SIZE: WIDEST})
    client.http2.increment_flow_control_window(WIDEST - 65_535 - 2**24)
    servers = {}
    for _ in range(2):
        number = await client.open()
        servers[number], _ = await origin.accept_request()
    sent = {}
    for number, server in servers.items():
        await server.send(UNTIL_CLOSE)
        # Fails if the balancer takes all of it.
        sent[number] = await server.send_until_stuck(b"x" * 65_536, 2**24)
        server.half_close()
    for number, size in sent.items():
        answer = await client.answer(number)
        assert (answer.status, len(answer.body)) == (200, size)
    await eventually(lambda: in_flight(lb) == [0])
