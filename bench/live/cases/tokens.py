"""Server-sent events: CPU per relayed token, resident memory per live stream."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from bench.live.loads.fleet import Fleet, FleetClient, check_fleet, close_fleet, open_fleet
from bench.live.messages import SDK_BODY, TOKEN_MARK, sdk_headers, sdk_request
from bench.live.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running

_WARM_UP_STREAMS = 20
_SETTLE = 1.0  # s, before memory is read and after streams have opened
# A principal's live turns are limited.
_STREAMS_OF_A_USER = 50
LEAST_DELIVERED = 0.97  # of the tokens that the rate stands for


class _Tokens(Case):
    """N streams at a fixed rate each, all live for the whole window.

    The proxy's CPU (all its processes and threads) over the tokens that the client received, and
    its memory with the streams minus before. A proxy is fresh for each measurement: memory that
    an earlier fleet left behind would hide what this one takes.
    """

    streams: int
    rate: int  # tokens per second and stream
    kind = "stream"  # of `token_server`
    is_keyed = False
    metrics = (
        Metric("cpu_us", "CPU per token", "µs", "lower", 1, is_main=True),
        Metric("memory_kb", "memory per stream", "KB", "lower", 1, is_main=True),
        Metric("delivered", "tokens delivered", "of asked", "neither", 3),
        Metric("per_read", "tokens per read", "", "neither", 2),
        Metric("turns", "are turns", "of all", "neither", 2),
        CPU_SHARE,
        FOREIGN,
    )

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        with peer.running(bench, bench.upstreams.tokens) as proxy:
            check_stream(proxy.port)
            return uvloop.run(self._measure(proxy, bench))

    async def _measure(self, proxy: Running, bench: Bench) -> Sample:
        async with live_streams(
            proxy, self.streams, self.rate, self.kind, is_keyed=self.is_keyed
        ) as live:
            values = await measure_tokens(live, bench, bench.seconds)
        warnings = []
        if values["delivered"] < LEAST_DELIVERED:
            warnings.append(f"only {values['delivered']:.0%} of the tokens were delivered")
        if 0.0 < values["turns"] < LEAST_DELIVERED:
            warnings.append(f"only {values['turns']:.0%} of the streams were turns")
        return Sample(values, warnings)


@dataclass
class LiveStreams:
    """Streams that are open, each of which has had a token."""

    proxy: Running
    fleet: Fleet
    rate: float
    before_kb: float  # the proxy's memory before they were opened
    opened_per_second: float  # heads of responses that came, from the first connection on


@asynccontextmanager
async def live_streams(
    proxy: Running, count: int, rate: float, kind: str = "stream", *, is_keyed: bool = False
) -> AsyncIterator[LiveStreams]:
    """Open `count` streams of `rate` tokens/s each, after some to warm up; close them."""
    assert proxy.process is not None
    path = f"/{kind}/{rate:g}"

    def clients(fleet: Fleet) -> Callable[[], FleetClient]:
        return _clients(fleet, proxy.port, path, is_keyed=is_keyed)

    warm_up = Fleet()
    await open_fleet(warm_up, clients(warm_up), proxy.port, _WARM_UP_STREAMS)
    await close_fleet(warm_up)
    await asyncio.sleep(_SETTLE)
    before_kb = proxy.process.resident_kb()

    fleet = Fleet()
    began = time.monotonic()
    await open_fleet(fleet, clients(fleet), proxy.port, count)
    opened_per_second = count / (fleet.answered_at - began)
    await asyncio.sleep(_SETTLE)
    yield LiveStreams(proxy, fleet, rate, before_kb, opened_per_second)
    check_fleet(fleet)
    await close_fleet(fleet)


async def measure_tokens(live: LiveStreams, bench: Bench, seconds: float) -> dict[str, float]:
    """CPU of each token in `seconds`, and the memory of each stream after them."""
    fleet, process = live.fleet, live.proxy.process
    assert process is not None
    window = Window(bench, process)
    messages, reads = fleet.messages, fleet.reads
    await asyncio.sleep(seconds)
    messages, reads = fleet.messages - messages, fleet.reads - reads
    window.close()
    if not messages:
        raise BenchError("no token arrived")
    streams = len(fleet.clients)
    return {
        "cpu_us": window.cpu_ns / 1e3 / messages,
        "memory_kb": (process.resident_kb() - live.before_kb) / streams,
        "delivered": messages / (streams * live.rate * window.seconds),
        "per_read": messages / reads,
        "cpu_share": window.cpu_share,
        "foreign": window.foreign,
        "turns": fleet.turns / streams,
    }


def _clients(fleet: Fleet, port: int, path: str, *, is_keyed: bool) -> Callable[[], FleetClient]:
    """Of a user each 50."""
    numbers = itertools.count()

    def make() -> FleetClient:
        user = next(numbers) // _STREAMS_OF_A_USER
        request = sdk_request(port, path, user, key=secrets.token_hex(16) if is_keyed else "")
        return FleetClient(fleet, request, b"HTTP/1.1 200", TOKEN_MARK)

    return make


class Tokens300(_Tokens):
    name = "tokens-300"
    title = "Event streams: 300 at 40 tokens/s"
    streams = 300
    rate = 40


class Tokens3000(_Tokens):
    name = "tokens-3000"
    title = "Event streams: 3,000 at 2 tokens/s"
    streams = 3000
    rate = 2


class _Turns(_Tokens):
    """The same route plain and with turns. Each request has a key: without one, a stream that is
    opened together with many others is no turn, rather than late. Events have no ids of their own.
    """

    kind = "bare"
    is_keyed = True

    def accepts(self, peer: Peer) -> bool:
        return self.name in peer.cases or peer.name in ("hermes_lb", "hermes_lb-compiled")


class Turns300(_Turns):
    name = "turns-300"
    title = "Event streams as turns and plain: 300 at 40 tokens/s"
    streams = 300
    rate = 40


class Turns3000(_Turns):
    name = "turns-3000"
    title = "Event streams as turns and plain: 3,000 at 2 tokens/s"
    streams = 3000
    rate = 2


def check_stream(port: int) -> None:
    """Check that a stream arrives as an event stream, in order, and nothing missing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        headers = sdk_headers(f"127.0.0.1:{port}")
        connection.request("POST", "/stream/100", body=SDK_BODY, headers=headers)
        response = connection.getresponse()
        kind = response.headers.get_content_type()
        if response.status != 200 or kind != "text/event-stream":
            raise BenchError(f"the stream answered {response.status} {kind}")
        lines = [response.readline() for _ in range(4 * 5)]  # id, event, data, blank
        ids = [line.split()[1] for line in lines if line.startswith(b"id:")]
        if ids != [b"1", b"2", b"3", b"4", b"5"]:
            raise BenchError(f"the stream's tokens came as {ids}")
    finally:
        connection.close()
