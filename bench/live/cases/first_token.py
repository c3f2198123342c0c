"""What a proxy adds to the time to the first token, when nothing else is going on."""

from __future__ import annotations

import re
import secrets
import socket
import statistics
import time
from typing import TYPE_CHECKING

from bench.live.cases.base import FOREIGN, Case, Metric, Sample
from bench.live.errors import BenchError
from bench.live.messages import LAST_CHUNK, sdk_request
from bench.live.window import Window

if TYPE_CHECKING:
    from bench.live.bench import Bench
    from bench.live.peers.base import Peer

_WARM_UP = 20  # requests
_USER = 1_000_000  # no other load has it
_PER_SECOND = 100  # requests for each second of a measurement, which they take roughly
_WAITED = re.compile(rb'"extra":(\d+).*\n\n', re.DOTALL)


class FirstToken(Case):
    """One SDK POST after another, through the proxy and directly in turns.

    The upstream sends its head at once and the first token 2 ms later, in a write of its own: a
    proxy (or its Nagle) that holds small pieces back shows here. The upstream tells how long it
    waited, which is taken off, so its timer's jitter is in neither figure.
    """

    name = "first-token"
    title = "Latency added to the first token, unloaded"
    metrics = (
        Metric("added_p50_ms", "p50 added", "ms", "lower", 3),
        Metric("added_p99_ms", "p99 added", "ms", "lower", 3, is_main=True, has_ratio=False),
        Metric("direct_p50_ms", "p50 direct", "ms", "neither", 3),
        Metric("direct_p99_ms", "p99 direct", "ms", "neither", 3),
        FOREIGN,
    )

    def measure(self, peer: Peer, bench: Bench) -> Sample:
        upstreams = bench.upstreams.tokens
        proxied: list[float] = []
        direct: list[float] = []
        with (
            peer.running(bench, upstreams) as proxy,
            Asker(proxy.port) as through,
            Asker(upstreams[0]) as past,
        ):
            for _ in range(_WARM_UP):
                through.ask()
                past.ask()
            window = Window(bench, proxy.process)
            for _ in range(round(_PER_SECOND * bench.seconds)):
                proxied.append(through.ask())
                direct.append(past.ask())
            window.close()
        direct_p50, direct_p99 = percentiles(direct)
        proxied_p50, proxied_p99 = percentiles(proxied)
        values = {
            "added_p50_ms": proxied_p50 - direct_p50,
            "added_p99_ms": proxied_p99 - direct_p99,
            "direct_p50_ms": direct_p50,
            "direct_p99_ms": direct_p99,
            "foreign": window.foreign,
        }
        return Sample(values)


class Asker:
    """A client on one kept-alive connection, blocking, hence without a loop's delays.

    `is_keyed`: each request has an Idempotency-Key of its own.
    """

    def __init__(self, port: int, *, is_keyed: bool = False) -> None:
        self._port = port
        self._is_keyed = is_keyed

    def __enter__(self) -> Asker:
        self._socket = socket.create_connection(("127.0.0.1", self._port), 5.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self) -> float:
        """Time from the request to the whole first token, less the upstream's wait, in ms."""
        key = secrets.token_hex(16) if self._is_keyed else ""
        request = sdk_request(self._port, path="/first", user=_USER, key=key)
        start = time.monotonic_ns()
        self._socket.sendall(request)
        received = b""
        while (token := _WAITED.search(received)) is None:
            received += self._receive()
        elapsed = time.monotonic_ns() - start
        if not received.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"unexpected answer: {received[:80]!r}")
        while not received.endswith(b"\r\n" + LAST_CHUNK):
            received += self._receive()
        return (elapsed - int(token[1])) / 1e6

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise BenchError("the connection was closed")
        return data


def percentiles(values: list[float]) -> tuple[float, float]:
    """The 50th and the 99th."""
    cuts = statistics.quantiles(values, n=100)
    return cuts[49], cuts[98]
