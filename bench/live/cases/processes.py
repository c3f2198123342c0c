"""The balancer in two workers, in one, and embedded: what do processes bring, what do they cost?"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from bench.live.cases.base import CPU_SHARE, FOREIGN, Case, Metric, Sample
from bench.live.errors import BenchError
from bench.live.loads import wrk
from bench.live.loads.fleet import Fleet, check_fleet, close_fleet, open_fleet
from bench.live.loads.paced import PacedClient
from bench.live.messages import get_request
from bench.live.pacing import Pacer
from bench.live.upstreams import running_upstreams
from bench.live.window import Window

if TYPE_CHECKING:
    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running

_CONNECTIONS = 160
_RATE = 50  # requests per second and connection: 8,000 in all, a fifth of a core or so
_SETTLE = 1.0  # s
_LEAST_DELIVERED = 0.97
_WARM_UP = 1  # s
_SPARE = 2  # cores: the second of the proxy, and one for the upstreams alone


class Processes(Case):
    """Small GETs at a rate that all of them bear, on the proxy's one core; and then, where there
    are four cores, as many as two of them can do.

    At a fixed rate CPU per request tells what sharing costs, apart from what a second core brings.
    Each of two workers has half of the requests, so fewer are processed together in a loop
    iteration; one worker at half the rate does as little at a time, and is what two compare with.
    """

    name = "processes"
    title = "Small GET at 8,000 req/s: two workers, one worker, embedded"
    metrics = (
        Metric("cpu_us", "CPU per request", "µs", "lower", 1, is_main=True),
        Metric("half_us", "at half the rate", "µs", "lower", 1),
        Metric("per_second", "on two cores", "req/s", "higher", 0, is_main=True),
        Metric("rest_ms", "CPU at rest", "ms/s", "lower", 1),
        Metric("rest_mb", "memory at rest", "MB", "lower", 1),
        Metric("delivered", "answered", "of asked", "neither", 3),
        CPU_SHARE,
        FOREIGN,
    )

    def accepts(self, peer: Peer) -> bool:
        return peer.name == "hermes_lb" or self.name in peer.cases

    def left_out(self, bench: Bench) -> str | None:
        if (missing := _SPARE - len(bench.spare_cores)) > 0:
            why = (
                f"{missing} more core{'s' * (missing > 1)} would be needed "
                "(two for the proxy, one for wrk, one for the upstreams)"
            )
        elif not wrk.is_installed():
            why = f"wrk is missing; to have it: {wrk.INSTALL}"
        else:
            return None
        return f"throughput of two workers beside one: not measured, {why}"

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        with peer.running(bench, bench.upstreams.small) as proxy:
            sample = uvloop.run(_measure_cost(proxy, bench))
        if self.left_out(bench) is None:
            sample.values["per_second"] = _measure_throughput(peer, bench)
        return sample


async def _measure_cost(proxy: Running, bench: Bench) -> Sample:
    process = proxy.process
    assert process is not None
    await asyncio.sleep(_SETTLE)
    cpu_ns, start = process.cpu_ns(), time.monotonic()
    await asyncio.sleep(bench.seconds)
    values = {
        "rest_ms": (process.cpu_ns() - cpu_ns) / 1e6 / (time.monotonic() - start),
        "rest_mb": process.resident_kb() / 1024,
    }
    window, answers = await _offer(proxy, bench, _CONNECTIONS // 2)
    values["half_us"] = window.cpu_ns / 1e3 / answers
    window, answers = await _offer(proxy, bench, _CONNECTIONS)
    delivered = answers / (_CONNECTIONS * _RATE * window.seconds)
    values |= {
        "cpu_us": window.cpu_ns / 1e3 / answers,
        "delivered": delivered,
        "cpu_share": window.cpu_share,
        "foreign": window.foreign,
    }
    late = delivered < _LEAST_DELIVERED
    return Sample(values, [f"only {delivered:.0%} of the requests were answered"] if late else [])


async def _offer(proxy: Running, bench: Bench, connections: int) -> tuple[Window, int]:
    """Requests on `connections` for `bench.seconds` -> what happened, how many answers."""
    fleet = Fleet()
    pacer = Pacer(asyncio.get_running_loop(), _RATE)
    request = get_request(proxy.port)
    client = partial(PacedClient, fleet, pacer, request, b"HTTP/1.1 200", request)
    await open_fleet(fleet, client, proxy.port, connections)
    await asyncio.sleep(_SETTLE)
    window = Window(bench, proxy.process)
    answers = fleet.messages
    await asyncio.sleep(bench.seconds)
    answers = fleet.messages - answers
    window.close()
    check_fleet(fleet)
    await close_fleet(fleet)
    if not answers:
        raise BenchError("no answer arrived")
    return window, answers


def _measure_throughput(peer: Peer, bench: Bench) -> float:
    """Requests per second of a proxy on two cores, with wrk and the upstreams on one each."""
    second, upstreams_core = bench.spare_cores[:_SPARE]
    directory = bench.directory / "spare"
    directory.mkdir(exist_ok=True)
    with (
        running_upstreams(directory, upstreams_core) as upstreams,
        peer.running(bench, upstreams.small, cores=(bench.proxy_core, second)) as proxy,
    ):
        for seconds in (_WARM_UP, max(1, round(bench.seconds))):
            outcome = wrk.run(wrk.Request(), proxy.port, seconds=seconds, directory=bench.directory)
    return outcome.per_second
