"""How evenly kept-alive connections are spread over two worker processes."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from bench.live.cases.base import Case, Metric, Sample
from bench.live.loads.fleet import Fleet, FleetClient, check_fleet, close_fleet, open_fleet
from bench.live.messages import TOKEN_MARK, get_request

if TYPE_CHECKING:
    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running

_OPENINGS = {32: 20, 1000: 3}  # connections -> how often they are opened
_WORKERS = 2


class Spread(Case):
    """Connections of one client, each with one request: the fullest worker's over its share."""

    name = "spread"
    title = "Connections of the fuller of two workers, over its share"
    metrics = (
        Metric("typical_32", "32, median", "", "lower", 2, is_main=True, has_ratio=False),
        Metric("worst_32", "32, worst", "", "lower", 2),
        Metric("typical_1000", "1,000, median", "", "lower", 2, is_main=True, has_ratio=False),
        Metric("worst_1000", "1,000, worst", "", "lower", 2),
    )

    def accepts(self, peer: Peer) -> bool:
        return self.name in peer.cases

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        with peer.running(bench, bench.upstreams.small) as proxy:
            return uvloop.run(_measure(proxy))


async def _measure(proxy: Running) -> Sample:
    values: dict[str, float] = {}
    for connections, openings in _OPENINGS.items():
        fullest = [await _fullest(proxy, connections) for _ in range(openings)]
        values[f"typical_{connections}"] = statistics.median(fullest)
        values[f"worst_{connections}"] = max(fullest)
    return Sample(values)


async def _fullest(proxy: Running, connections: int) -> float:
    assert proxy.process is not None
    fleet = Fleet()
    request = get_request(proxy.port)
    client = partial(FleetClient, fleet, request, b"HTTP/1.1 200", TOKEN_MARK)
    await open_fleet(fleet, client, proxy.port, connections)
    held = proxy.process.connections(proxy.port)
    check_fleet(fleet)
    await close_fleet(fleet)
    return max(held.values()) * _WORKERS / connections
