"""A pool of 10,000 servers: picking one, checking all, and a scrape of the metrics."""

from __future__ import annotations

import time
from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar

from bench import strategies
from bench.live.peers.hermes_lb import HermesLb
from bench.live.window import Window
from bench.scale.streams import scrape
from hermes_lb.balancing import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.live.bench import Bench
    from bench.live.peers.base import Setup

COUNT = 10_000
_SETTLE = 6.0  # s: the first round of checks, which come every 5 s
_WINDOW = 10.0  # s: two rounds
_SCRAPES = 3
_ROUNDS = 3


class _Many(HermesLb):
    name: ClassVar[str] = "hermes_lb-many"

    def servers(self, setup: Setup) -> Sequence[int]:
        return list(islice(cycle(setup.upstreams), COUNT))


def picks(progress: Callable[[str], None]) -> dict[str, float]:
    """Nanoseconds a pick, by strategy."""
    found = {}
    for name in STRATEGIES:
        progress(f"{name} among {COUNT:,} servers")
        found[name] = strategies.measure(name, COUNT, _ROUNDS)
    return found


def checks_and_scrape(bench: Bench, progress: Callable[[str], None]) -> dict[str, float]:
    """CPU of the checks, and of a scrape, for all processes together."""
    progress(f"checks of {COUNT:,} servers, and scrapes")
    began = time.monotonic()
    with _Many().running(bench, bench.upstreams.small) as proxy:
        assert proxy.process is not None
        assert proxy.setup is not None
        started = time.monotonic() - began
        time.sleep(_SETTLE)
        window = Window(bench, proxy.process)
        time.sleep(_WINDOW)
        window.close()
        figures = {
            "servers": COUNT,
            "start_s": started,
            "checks_cpu": window.cpu_share,
            "check_us": window.cpu_share / (COUNT / 5) * 1e6,
            "memory_mb": proxy.process.resident_kb() / 1024,
            "foreign": window.foreign,
        }
        window = Window(bench, proxy.process)
        began = time.monotonic()
        for _ in range(_SCRAPES):
            size = len(scrape(proxy.setup.admin_port))
        took = (time.monotonic() - began) / _SCRAPES
        window.close()
        # Checks go on meanwhile.
        cpu = window.cpu_ns / 1e9 / _SCRAPES - took * figures["checks_cpu"]
        return {**figures, "scrape_s": took, "scrape_cpu_s": cpu, "scrape_mb": size / 1e6}
