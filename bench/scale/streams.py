"""From a hundred live streams to as many as the limit of descriptors allows."""

from __future__ import annotations

import asyncio
import re
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, cast

import uvloop

from bench.live.cases.first_token import Asker, percentiles
from bench.live.cases.tokens import LiveStreams, live_streams, measure_tokens
from bench.live.errors import BenchError
from bench.live.peers.hermes_lb import HermesLb, HermesLbEmbedded, HermesLbTurns

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from bench.live.bench import Bench
    from bench.live.peers.base import Running

Figures = dict[str, float]

# With 20,000 descriptors a process can hold some 9,950 streams: each takes two.
MOST = 9_900
COUNTS = (100, 300, 1_000, 3_000, MOST)
# Of two workers. The kernel spreads connections by a hash of addresses: with a standard deviation
# of 69, so that neither reaches 9,950.
TWO_PROCESSES = 19_000
# Streams that are turns, and the balancer's worker processes for them.
TURNS = ((MOST, 1), (10_000, 2))
_TOKENS_PER_SECOND = 9_900  # of all streams together
_LONG = 20.0  # s: 1,000 measurements of the loop's lag, for its p99.9
_SHORT = 4.0
_FIRST_TOKENS = 300  # asked for one after another, beside the live streams
_PATIENCE = 10.0
_RELOADED = 'hermes_lb_config_reloads_total{result="success"}'
_NO_LIMIT = "[limits]\nconnections_per_client = 0\n"  # all clients have one address
_COLLECTED = re.compile(r"collected in ([0-9.]+) ms")


def _crowded(build: type[HermesLb], workers: int = 1) -> HermesLb:
    options = {"sections": build.sections + _NO_LIMIT, "workers": workers}
    return cast("HermesLb", type("Crowded", (build,), options)())


def curve(build: type[HermesLb], bench: Bench, progress: Callable[[str], None]) -> list[Figures]:
    """CPU and memory by the number of streams, at the same number of tokens a second. The last is
    watched for longer, and its configuration reloaded.
    """
    rows = []
    for count in COUNTS:
        progress(f"{count:,} streams in one process")
        rows.append(_measure(_crowded(build), count, bench, is_last=count == MOST))
    return rows


def two_processes(build: type[HermesLb], bench: Bench, progress: Callable[[str], None]) -> Figures:
    progress(f"{TWO_PROCESSES:,} streams in two processes")
    return _measure(_crowded(build, workers=2), TWO_PROCESSES, bench, is_last=True)


def turns(bench: Bench, progress: Callable[[str], None]) -> list[Figures]:
    """Live streams that are turns, with the CPU of their store."""
    rows = []
    for count, workers in TURNS:
        progress(f"{count:,} turns, worker processes: {workers}")
        peer = _crowded(HermesLbTurns, workers)
        rows.append(_measure(peer, count, bench, is_last=True, kind="bare", is_keyed=True))
    return rows


def full_collection(bench: Bench, progress: Callable[[str], None]) -> Figures:
    """The longest pause that the garbage collector can make: everything, with MOST live streams."""
    progress(f"a full collection with {MOST:,} streams")
    with _crowded(HermesLbEmbedded).running(bench, bench.upstreams.tokens) as proxy:
        return uvloop.run(_collect(proxy))


def _measure(
    peer: HermesLb,
    count: int,
    bench: Bench,
    *,
    is_last: bool,
    kind: str = "stream",
    is_keyed: bool = False,
) -> Figures:
    """`kind`, `is_keyed`: as of `live_streams`."""
    with peer.running(bench, bench.upstreams.tokens) as proxy:
        rate = _TOKENS_PER_SECOND / count
        live = live_streams(proxy, count, rate, kind, is_keyed=is_keyed)
        return uvloop.run(_observe(live, peer, bench, is_last))


async def _observe(
    opened: AbstractAsyncContextManager[LiveStreams], peer: HermesLb, bench: Bench, is_last: bool
) -> Figures:
    async with opened as live:
        proxy, count, store = live.proxy, len(live.fleet.clients), bench.upstreams.store_server
        assert proxy.process is not None
        figures: Figures = {"streams": count, "opened_per_second": live.opened_per_second}
        before = lags(await _metrics(proxy))
        received, stored_ns = live.fleet.messages, store.cpu_ns() if store is not None else 0
        figures |= await measure_tokens(live, bench, _LONG if is_last else _SHORT)
        if store is not None and figures["turns"]:
            used = (store.cpu_ns() - stored_ns) / 1e3
            figures["store_us"] = used / (live.fleet.messages - received)
            figures |= await asyncio.to_thread(_first_tokens, proxy.port, bench)
        if is_last:
            metrics = await _metrics(proxy)
            worst, after = worst_lag(metrics), lags(metrics)
            for share in (0.99, 0.999):
                bound = lag_percentile(before, after, share)
                figures[f"lag_p{share * 1000:g}_ms"] = min(bound, worst) * 1e3
            figures["lag_worst_ms"] = worst * 1e3
            shares = proxy.process.connections(proxy.port)
            figures["largest_share"] = max(shares.values()) * peer.workers / count
            received = live.fleet.messages
            await _reload(proxy)
            await asyncio.sleep(2 / live.rate)  # two more tokens of every stream
            figures["lost_in_reload"] = live.fleet.lost
            figures["tokens_in_reload"] = live.fleet.messages - received
        return figures


def _first_tokens(port: int, bench: Bench) -> Figures:
    """The time to the first token of one more turn, less what its server waits."""
    with Asker(port, is_keyed=True) as through, Asker(bench.upstreams.tokens[0]) as past:
        found = [(through.ask(), past.ask()) for _ in range(_FIRST_TOKENS)]
    _, p99 = percentiles([proxied for proxied, _ in found])
    _, direct_p99 = percentiles([direct for _, direct in found])
    return {"first_p99_ms": p99, "first_direct_p99_ms": direct_p99}


async def _reload(proxy: Running) -> None:
    """Change the configuration, reload it, and wait until it is in use."""
    assert proxy.process is not None
    assert proxy.setup is not None
    file = proxy.setup.directory / "lb.toml"
    file.write_text(file.read_text().replace('interval = "5s"', 'interval = "6s"'))
    proxy.process.send(signal.SIGHUP)
    deadline = time.monotonic() + _PATIENCE
    while f"{_RELOADED} 1\n" not in await _metrics(proxy):
        if time.monotonic() > deadline:
            raise BenchError(f"not reloaded in {_PATIENCE:.0f} s")
        await asyncio.sleep(0.1)


async def _collect(proxy: Running) -> Figures:
    assert proxy.process is not None
    async with live_streams(proxy, MOST, _TOKENS_PER_SECOND / MOST):
        proxy.process.send(signal.SIGUSR1)
        deadline = time.monotonic() + _PATIENCE
        while not (found := _COLLECTED.search(proxy.process.output(100))):
            if time.monotonic() > deadline:
                raise BenchError("no collection")
            await asyncio.sleep(0.1)
        return {"streams": MOST, "collection_ms": float(found[1])}


async def _metrics(proxy: Running) -> str:
    assert proxy.setup is not None
    return await asyncio.to_thread(scrape, proxy.setup.admin_port)


def scrape(admin_port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


_LAG = re.compile(r'^hermes_lb_loop_lag_seconds_bucket\{process="(\d+)",le="([^"]+)"\} (\d+)', re.M)
_WORST = re.compile(r'^hermes_lb_loop_lag_worst_seconds\{process="\d+"\} (\S+)', re.M)


def lags(metrics: str) -> dict[float, int]:
    """Upper bound, s -> measurements up to it, of all workers."""
    found: dict[float, int] = {}
    for _, bound, count in _LAG.findall(metrics):
        found[float(bound)] = found.get(float(bound), 0) + int(count)
    return found


def worst_lag(metrics: str) -> float:
    return max(map(float, _WORST.findall(metrics)))


def lag_percentile(before: dict[float, int], after: dict[float, int], share: float) -> float:
    """The upper bound of the bucket that has the percentile of what came between, in s."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    wanted = share * max(counts.values())
    return next(bound for bound, count in counts.items() if count >= wanted)
