"""Requests in a closed loop: small GETs, SDK POSTs, a connection for each, TLS, handshakes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.live.cases.base import (
    CPU_SHARE,
    FOREIGN,
    SYSTEM,
    USER,
    Metric,
    Sample,
    SlicedCase,
)
from bench.live.loads import wrk
from bench.live.messages import SDK_BODY, SDK_PATH, VARIED_PATH, sdk_headers
from bench.live.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.live.bench import Bench
    from bench.live.peers.base import Peer, Running

_WARM_UP = 1  # s


class _Requests(SlicedCase):
    """wrk over 32 connections: whatever it cannot count as answered well is a warning.

    Where a proxy used clearly less than its whole core, the load's core was the bottleneck, and
    the CPU that a request took tells the proxies apart better than the throughput.
    """

    metrics = (
        Metric("per_second", "throughput", "req/s", "higher", 0, is_main=True),
        Metric("p50_us", "p50", "µs", "lower", 0),
        Metric("p99_us", "p99", "µs", "lower", 0),
        Metric("cpu_us", "CPU per request", "µs", "lower", 1),
        USER,
        SYSTEM,
        CPU_SHARE,
        FOREIGN,
    )
    needs_wrk = True
    request = wrk.Request()

    def accepts(self, peer: Peer) -> bool:
        return not peer.cases and (peer.has_tls or not self.request.tls)

    @contextmanager
    def started(self, peer: Peer, bench: Bench) -> Iterator[Running]:
        with peer.running(bench, bench.upstreams.small, tls=self.request.tls) as proxy:
            wrk.run(self.request, proxy.port, seconds=_WARM_UP, directory=bench.directory)
            yield proxy

    def measure_slice(self, proxy: Running, bench: Bench, seconds: int) -> Sample:
        window = Window(bench, proxy.process)
        outcome = wrk.run(self.request, proxy.port, seconds=seconds, directory=bench.directory)
        window.close()
        warnings = []
        if outcome.errors:
            kinds = ", ".join(f"{count} {kind}" for kind, count in outcome.errors.items())
            warnings.append(f"errors in {outcome.requests} requests: {kinds}")
        values = {
            "per_second": outcome.per_second,
            "p50_us": outcome.p50_us,
            "p99_us": outcome.p99_us,
        }
        if proxy.process:
            values |= window.cpu(outcome.requests)
            values["cpu_share"] = window.cpu_share
        values["foreign"] = window.foreign
        return Sample(values, warnings)


class SmallGet(_Requests):
    name = "get"
    title = "Small GET, kept alive"


class VariedGet(_Requests):
    """No head comes twice, in either direction: nothing that a proxy remembers of them helps."""

    name = "get-varied"
    title = "Small GET, kept alive, every head another"
    request = wrk.Request(path=VARIED_PATH, is_varied=True)


class SdkPost(_Requests):
    name = "post"
    title = "SDK POST: 512 bytes over a head of 16 headers, kept alive"
    # wrk adds the two that depend on the address and the body.
    request = wrk.Request(
        path=SDK_PATH,
        method="POST",
        headers=tuple(
            (name, value)
            for name, value in sdk_headers("127.0.0.1:20000").items()
            if name not in {"Host", "Content-Length"}
        ),
        body=SDK_BODY,
    )


class ConnectionPerRequest(_Requests):
    name = "close"
    title = "A new client connection for each small GET"
    request = wrk.Request(headers=(("Connection", "close"),))


class TlsGet(_Requests):
    name = "get-tls"
    title = "Small GET over TLS, kept alive"
    needs_certificate = True
    request = wrk.Request(tls=True)


class Handshake(_Requests):
    """No session is resumed: the peers give out no tickets, and wrk would use them."""

    name = "handshake"
    title = "A new TLS connection, with a full handshake, for each small GET"
    needs_certificate = True
    request = wrk.Request(headers=(("Connection", "close"),), tls=True)
