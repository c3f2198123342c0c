"""WebSocket: CPU per small frame relayed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from bench.live.cases.base import (
    CPU_SHARE,
    FOREIGN,
    Case,
    Metric,
    Sample,
)
from bench.live.errors import BenchError
from bench.live.loads.fleet import Fleet, check_fleet, close_fleet, open_fleet
from bench.live.loads.paced import PacedClient
from bench.live.messages import CLIENT_FRAME, websocket_request
from bench.live.pacing import Pacer
from bench.live.window import Window

if TYPE_CHECKING:
    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running

_CONNECTIONS = 100
_RATE = 40  # echoes per second and connection
_SETTLE = 1.0  # s


class WebSocketEcho(Case):
    """100 connections, each sending 40 small frames a second that the upstream echoes.

    An echo is two frames relayed, one each way.
    """

    name = "websocket"
    title = "WebSocket: 100 connections, 40 echoes/s each"
    metrics = (
        Metric("cpu_us", "CPU per frame", "µs", "lower", 1, is_main=True),
        Metric("delivered", "echoes delivered", "of asked", "neither", 3),
        CPU_SHARE,
        FOREIGN,
    )

    def accepts(self, peer: Peer) -> bool:
        return super().accepts(peer) and peer.has_websocket

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        with peer.running(bench, bench.upstreams.tokens) as proxy:
            return uvloop.run(_measure(proxy, bench))


async def _measure(proxy: Running, bench: Bench) -> Sample:
    process = proxy.process
    assert process is not None
    fleet = Fleet()
    pacer = Pacer(asyncio.get_running_loop(), _RATE)
    opening = websocket_request(proxy.port)
    client = partial(PacedClient, fleet, pacer, opening, b"HTTP/1.1 101", CLIENT_FRAME)
    await open_fleet(fleet, client, proxy.port, _CONNECTIONS)
    await asyncio.sleep(_SETTLE)
    window = Window(bench, process)
    echoes = fleet.messages
    await asyncio.sleep(bench.seconds)
    echoes = fleet.messages - echoes
    window.close()
    check_fleet(fleet)
    await close_fleet(fleet)
    if not echoes:
        raise BenchError("no echo arrived")
    values = {
        "cpu_us": window.cpu_ns / 1e3 / (2 * echoes),
        "delivered": echoes / (_CONNECTIONS * _RATE * window.seconds),
        "cpu_share": window.cpu_share,
        "foreign": window.foreign,
    }
    return Sample(values)
