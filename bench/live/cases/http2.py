"""HTTP/2 from clients, with HTTP/1.1 to the servers: small GETs, tokens on many streams. And
small GETs with HTTP/2 on both sides."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvloop

from bench.live.cases.base import (
    CPU_SHARE,
    FOREIGN,
    SYSTEM,
    USER,
    Case,
    Metric,
    Sample,
    SlicedCase,
)
from bench.live.cases.tokens import LEAST_DELIVERED, LiveStreams, measure_tokens
from bench.live.errors import BenchError
from bench.live.loads import h2load
from bench.live.loads.fleet import Fleet, check_fleet, close_fleet
from bench.live.messages import TOKEN_MARK
from bench.live.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running

_WARM_UP = 1  # s
_SETTLE = 1.0  # s
_OPEN_TAKES = 30.0  # s


class Http2Get(SlicedCase):
    """h2load over 4 connections of 50 streams each."""

    name = "get-h2"
    title = "Small GET by HTTP/2: 4 connections of 50 streams"
    metrics = (
        Metric("per_second", "throughput", "req/s", "higher", 0, is_main=True),
        Metric("cpu_us", "CPU per request", "µs", "lower", 1),
        USER,
        SYSTEM,
        CPU_SHARE,
        FOREIGN,
    )
    tls = False

    def accepts(self, peer: Peer) -> bool:
        return not peer.cases and peer.has_http2

    def left_out(self, bench: Bench) -> str | None:
        return None if h2load.is_installed() else f"h2load is missing: {h2load.INSTALL}"

    def servers(self, bench: Bench) -> tuple[int, ...]:
        return bench.upstreams.small

    @contextmanager
    def started(self, peer: Peer, bench: Bench) -> Iterator[Running]:
        with peer.running(bench, self.servers(bench), tls=self.tls, http2=True) as proxy:
            self._load(proxy, bench, _WARM_UP)
            yield proxy

    def _load(self, proxy: Running, bench: Bench, seconds: int) -> h2load.Outcome:
        return h2load.run(
            proxy.http2_port, tls=self.tls, seconds=seconds, directory=bench.directory
        )

    def measure_slice(self, proxy: Running, bench: Bench, seconds: int) -> Sample:
        window = Window(bench, proxy.process)
        found = self._load(proxy, bench, seconds)
        window.close()
        warnings = [f"{found.failed} errors"] if found.failed else []
        values = {
            "per_second": found.per_second,
            **window.cpu(found.requests),
            "cpu_share": window.cpu_share,
            "foreign": window.foreign,
        }
        return Sample(values, warnings)


class Http2TlsGet(Http2Get):
    name = "get-h2-tls"
    title = "Small GET by HTTP/2 over TLS: 4 connections of 50 streams"
    needs_certificate = True
    tls = True


class Http2ServersGet(Http2Get):
    name = "get-h2-servers"
    title = "Small GET by HTTP/2, to the servers too: 4 connections of 50 streams"

    def accepts(self, peer: Peer) -> bool:
        return super().accepts(peer) and peer.has_http2_servers

    def left_out(self, bench: Bench) -> str | None:
        without = None if bench.upstreams.small_http2 else "its servers need nginx"
        return super().left_out(bench) or without

    def servers(self, bench: Bench) -> tuple[int, ...]:
        return bench.upstreams.small_http2


class Http2Tokens(Case):
    """100 streams on each of 10 connections, all live for the whole window."""

    name = "tokens-h2"
    title = "Event streams by HTTP/2: 100 on each of 10 connections, at 10 tokens/s"
    connections, streams, rate = 10, 100, 10
    metrics = (
        Metric("cpu_us", "CPU per token", "µs", "lower", 1, is_main=True),
        Metric("memory_kb", "memory per stream", "KB", "lower", 1, is_main=True),
        Metric("delivered", "tokens delivered", "of asked", "neither", 3),
        Metric("per_read", "tokens per read", "", "neither", 2),
        CPU_SHARE,
        FOREIGN,
    )

    def accepts(self, peer: Peer) -> bool:
        return not peer.cases and peer.has_http2

    def left_out(self, bench: Bench) -> str | None:
        has_client = importlib.util.find_spec("ngh2") is not None
        return None if has_client else "its client needs ngh2: pip install ngh2"

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        with peer.running(bench, bench.upstreams.tokens, http2=True) as proxy:
            return uvloop.run(self._measure(proxy, bench))

    async def _measure(self, proxy: Running, bench: Bench) -> Sample:
        async with self._live(proxy) as live:
            values = await measure_tokens(live, bench, bench.seconds)
        # It counted connections.
        del values["turns"]
        values["memory_kb"] /= self.streams
        values["delivered"] /= self.streams
        warnings = []
        if values["delivered"] < LEAST_DELIVERED:
            warnings.append(f"only {values['delivered']:.0%} of the tokens were delivered")
        return Sample(values, warnings)

    @asynccontextmanager
    async def _live(self, proxy: Running) -> AsyncIterator[LiveStreams]:
        assert proxy.process is not None
        warm_up = await self._open(proxy, 1, 20)
        await close_fleet(warm_up)
        await asyncio.sleep(_SETTLE)
        before = proxy.process.resident_kb()
        began = time.monotonic()
        fleet = await self._open(proxy, self.connections, self.streams)
        opened = self.connections * self.streams / (fleet.answered_at - began)
        await asyncio.sleep(_SETTLE)
        yield LiveStreams(proxy, fleet, self.rate, before, opened)
        check_fleet(fleet)
        await close_fleet(fleet)

    async def _open(self, proxy: Running, connections: int, streams: int) -> Fleet:
        from bench.live.loads.http2_fleet import StreamsClient

        fleet = Fleet()
        request = [
            (b":method", b"GET"), (b":path", b"/stream/%d" % self.rate), (b":scheme", b"http"),
            (b":authority", b"127.0.0.1"), (b"accept", b"text/event-stream"),
        ]  # fmt: skip
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            await loop.create_connection(
                lambda: StreamsClient(fleet, streams, request, TOKEN_MARK),
                "127.0.0.1", proxy.http2_port,
            )  # fmt: skip
        deadline = time.monotonic() + _OPEN_TAKES
        while fleet.started < connections * streams:
            await asyncio.sleep(0.05)
            check_fleet(fleet)
            if time.monotonic() > deadline:
                raise BenchError(f"only {fleet.started} streams started")
        gc.collect()
        return fleet
