"""How evenly several balancers spread live streams, when each counts only its own.

`python -m bench.scale.balancers`; docs/scaling-out.md has the figures. Real pools and strategies on a
virtual clock: a stream arrives at a balancer by chance, as behind a DNS name or a VIP, and lasts for
an exponential time. First all streams arrive, then as many again replace those that end.
"""

from __future__ import annotations

import argparse
import time
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.backends import Pool
from hermes_lb.balancing import STRATEGIES
from hermes_lb.config import Address, Backend, Server

if TYPE_CHECKING:
    from hermes_lb.backends import Lease

_STRATEGIES = ("leastconn", "p2c", "round_robin", "random")
_BALANCERS = (1, 2, 4, 8, 16, 32)
_WORKERS = 100
_PER_WORKER = (1, 10, 100)
_SAMPLES = 50


class Spread(NamedTuple):
    """Live streams of a worker as ratios to the mean: of the fullest, and of that at 99 %.

    `waits`: the share of arrivals that found their worker at 1.25 times the mean or above.
    """

    fullest: float
    p99: float
    waits: float


class _Request:
    """A stream, as a strategy sees it."""

    client_address = ""
    request_head = b""
    tried = ()


def spread(
    strategy: str, *, balancers: int, workers: int, per_worker: int, seed: int = 1
) -> Spread:
    rng, streams = Random(seed), workers * per_worker
    configured = [
        Server(name=f"w{i}", address=Address(f"10.0.{i >> 8}.{i & 255}", 8000))
        for i in range(workers)
    ]
    pools = [Pool("agents", Backend(servers=configured)) for _ in range(balancers)]
    picks = [STRATEGIES[strategy](STRATEGIES[strategy].options()) for _ in pools]
    places = {server: i for pool in pools for i, server in enumerate(pool.servers)}
    live, ends, request = [0] * workers, list[tuple[float, int, "Lease"]](), _Request()
    full = 1.25 * per_worker
    fullest, p99, waits = [], [], 0
    every = max(1, streams // _SAMPLES)
    for number in range(2 * streams):
        now = number / streams  # mean lifetime: 1, so `streams` live in the steady state
        while ends and ends[0][0] <= now:
            _, _, lease = heappop(ends)
            live[places[lease.server]] -= 1
            lease.release()
        which = rng.randrange(balancers)
        server = picks[which].pick(pools[which], request, now, rng)
        assert server is not None
        place = places[server]
        if number < streams:
            # All of them live at the end of the first part, as in the steady state.
            ends_at = 1.0 + rng.expovariate(1.0)
        else:
            waits += live[place] >= full
            ends_at = now + rng.expovariate(1.0)
        live[place] += 1
        heappush(ends, (ends_at, number, pools[which].lease(server, now)))
        if number >= streams and number % every == 0:
            mean, ordered = sum(live) / workers, sorted(live)
            fullest.append(ordered[-1] / mean)
            p99.append(ordered[int(0.99 * workers)] / mean)
    return Spread(sum(fullest) / len(fullest), sum(p99) / len(p99), waits / streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", action="store_true", help="1,000,000 streams, 30 balancers")
    if parser.parse_args().largest:
        for strategy in ("leastconn", "p2c", "random"):
            began = time.perf_counter()
            found = spread(strategy, balancers=30, workers=1000, per_worker=1000)
            took = time.perf_counter() - began
            print(
                f"{strategy:12} {found.fullest:.3f} {found.p99:.3f} {found.waits:.3%} {took:.0f} s"
            )
        return
    for per_worker in _PER_WORKER:
        print(f"\n{_WORKERS} workers, {per_worker} streams each: fullest / mean (p99), waits")
        print(f"{'balancers':12}", *(f"{count:>22}" for count in _BALANCERS))
        for strategy in _STRATEGIES:
            cells = []
            for count in _BALANCERS:
                one = spread(strategy, balancers=count, workers=_WORKERS, per_worker=per_worker)
                cells.append(f"{one.fullest:8.2f} ({one.p99:.2f}) {one.waits:6.1%}")
            print(f"{strategy:12}", *(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
