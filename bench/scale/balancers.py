"""How evenly several balancers spread live streams, when each counts only its own.

`python -m bench.scale.balancers`; docs/scaling-out.md has the figures. Real pools and strategies on
a virtual clock: a stream arrives at a balancer by chance, as behind a DNS name or a VIP, and lasts
for an exponential time. First all streams arrive, then others replace those that end.
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
# Lifetimes of a stream between the start and the measurement: balancers that start together pick
# servers in the same order at first.
_AFTER = (0, 10)


class Spread(NamedTuple):
    """`fullest`: live streams of the fullest worker, as a ratio to the mean. `waits`: the share of
    arrivals that found their worker at 1.25 times the mean or above."""

    fullest: float
    waits: float


class _Request:
    """A stream, as a strategy sees it."""

    client_address = ""
    request_head = b""
    tried = ()


def spread(
    strategy: str, *, balancers: int, workers: int, per_worker: int, after: int, seed: int = 1
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
    fullest, waits, measured = [], 0, (1 + after) * streams
    every = max(1, streams // _SAMPLES)
    for number in range(measured + streams):
        now = number / streams  # in lifetimes, so that `streams` live in the steady state
        while ends and ends[0][0] <= now:
            _, _, lease = heappop(ends)
            live[places[lease.server]] -= 1
            lease.release()
        which = rng.randrange(balancers)
        server = picks[which].pick(pools[which], request, now, rng)
        assert server is not None
        place = places[server]
        waits += number >= measured and live[place] >= 1.25 * per_worker
        live[place] += 1
        # All of the first part live at its end, as in the steady state.
        ends_at = max(1.0, now) + rng.expovariate(1.0)
        heappush(ends, (ends_at, number, pools[which].lease(server, now)))
        if number >= measured and number % every == 0:
            fullest.append(max(live) * workers / sum(live))
    return Spread(sum(fullest) / len(fullest), waits / streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", action="store_true", help="1,000,000 streams, 30 balancers")
    if parser.parse_args().largest:
        for strategy in ("leastconn", "p2c", "random"):
            began = time.perf_counter()
            one = spread(strategy, balancers=30, workers=1000, per_worker=1000, after=0)
            took = time.perf_counter() - began
            print(f"{strategy:12} {one.fullest:.3f} {one.waits:.2%} {took:.0f} s", flush=True)
        return
    for after in _AFTER:
        for per_worker in _PER_WORKER:
            print(f"\n{per_worker} streams a worker, after {after} lifetimes: fullest, waits")
            print(f"{'balancers':12}", *(f"{count:>14}" for count in _BALANCERS))
            for strategy in _STRATEGIES:
                cells = [_cell(strategy, count, per_worker, after) for count in _BALANCERS]
                print(f"{strategy:12}", *(f"{cell:>14}" for cell in cells), flush=True)


def _cell(strategy: str, balancers: int, per_worker: int, after: int) -> str:
    one = spread(
        strategy, balancers=balancers, workers=_WORKERS, per_worker=per_worker, after=after
    )
    return f"{one.fullest:.2f} {one.waits:.0%}"


if __name__ == "__main__":
    main()
