"""What happens to a proxy and to both cores while a measurement runs."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from bench.live.processes import core_busy_seconds

if TYPE_CHECKING:
    from bench.live.bench import Bench
    from bench.live.processes import Process


class Window:
    """From `__init__` to `close`. `proxy` is None for the direct connection."""

    def __init__(self, bench: Bench, proxy: Process | None) -> None:
        self._bench = bench
        self._proxy = proxy
        self._start = self._read()
        self.seconds = 0.0
        self.cpu_ns = 0  # of the proxy: every thread of every process
        self.user_share = 0.0  # of that CPU time; the rest is the kernel's
        self.foreign = 0.0  # share that others used of the proxy's or the load's core: the larger

    def close(self) -> Window:
        """Fix `seconds`, `cpu_ns`, `user_share` and `foreign`."""
        end = self._read()
        self.seconds, proxy, load, proxy_core, load_core, user, system = (
            now - then for now, then in zip(end, self._start, strict=True)
        )
        self.cpu_ns = round(proxy * 1e9)
        self.user_share = user / max(1, user + system)
        others = [0.0, load_core - load] + ([proxy_core - proxy] if self._proxy else [])
        self.foreign = max(others) / self.seconds
        return self

    @property
    def cpu_share(self) -> float:
        """Cores' worth of CPU that the proxy used: 1.0 when it was the bottleneck."""
        return self.cpu_ns / 1e9 / self.seconds

    def cpu(self, count: int) -> dict[str, float]:
        """CPU for each of `count` requests or messages, in µs: all, user and system."""
        each = self.cpu_ns / 1e3 / max(1, count)
        return {
            "cpu_us": each,
            "user_us": each * self.user_share,
            "system_us": each * (1 - self.user_share),
        }

    def _read(self) -> tuple[float, float, float, float, float, int, int]:
        """Now; CPU used by the proxy and by the load; both cores' busy time, in seconds. User and
        system time of the proxy, in ticks.
        """
        bench = self._bench
        clients = resource.getrusage(resource.RUSAGE_CHILDREN)  # wrk, once it has ended
        load = time.process_time() + clients.ru_utime + clients.ru_stime
        load += sum(server.cpu_ns() for server in bench.upstreams.processes) / 1e9
        return (
            time.monotonic(),
            self._proxy.cpu_ns() / 1e9 if self._proxy else 0.0,
            load,
            core_busy_seconds(bench.proxy_core),
            core_busy_seconds(bench.load_core),
            *(self._proxy.cpu_ticks() if self._proxy else (0, 0)),
        )
