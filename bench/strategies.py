"""`python -m bench.strategies`: what picking a server costs, by strategy and number of servers.

Each figure is the fastest of several rounds, in nanoseconds a pick, with two requests in flight at
each server (so that loads differ) and a time to first byte known of each. What the picked server's
lease costs is measured too and taken off; what a strategy that follows leases adds to each is in
the column `lease`. Other columns: servers without limits; `limits`, servers with
`max_connections`, where any pick may meet one that is full; `failed`, one has failed lately (once,
with `max_fails = 3`, so that it is still picked); `out`, three are out for their failures;
`warming`, one is in its slow start.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from itertools import cycle
from pathlib import Path
from random import Random
from time import perf_counter_ns

from rich import box
from rich.console import Console
from rich.table import Table

from hermes_lb.backends import Pool
from hermes_lb.balancing import STRATEGIES, Learner
from hermes_lb.config import Backend

COLUMNS = [
    *((size, condition) for size in (3, 100, 1000) for condition in ("", "limits")),
    *((1000, condition) for condition in ("failed", "out", "warming", "lease")),
]
MUST = 5000  # nanoseconds, of any strategy among 1,000 servers
_PICKS = 500  # a round: short enough that some rounds are not disturbed
_OUTPUT = Path(__file__).resolve().parent / "results" / "strategies.json"


class _Request:
    """What a strategy sees of a request."""

    request_head = b"GET / HTTP/1.1\r\nHost: agents\r\n\r\n"
    tried = ()

    def __init__(self, client_address: str) -> None:
        self.client_address = client_address


class _Answer:
    """What a strategy sees of a response."""

    status = 200

    def fields(self) -> tuple[()]:
        return ()


def main() -> int:
    options = _parse_options()
    figures: dict[str, dict[str, float]] = {}
    for name in options.strategy or STRATEGIES:
        row = figures[name] = {}
        for size, condition in COLUMNS:
            row[f"{size} {condition}".strip()] = measure(name, size, options.rounds, condition)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(_table(figures))
    if not options.strategy:
        _OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        _OUTPUT.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure(name: str, size: int, rounds: int, condition: str = "") -> float:
    """Nanoseconds a pick."""
    rng = Random(7)
    servers = [
        {
            "name": f"s{i}",
            "address": f"10.0.{i // 256}.{i % 256}:80",
            "max_connections": 4 if condition == "limits" else 0,
            "max_fails": 1 if condition == "out" else 3,
            "slow_start": 60 if condition == "warming" else 0,
        }
        for i in range(size)
    ]
    pool = Pool("bench", Backend.model_validate({"servers": servers}))
    strategy = STRATEGIES[name]()
    requests = cycle([_Request(f"10.1.{i % 256}.{i // 256}") for i in range(5000)])
    leases = deque(pool.lease(server, 0.0) for server in pool.servers for _ in range(2))
    rng.shuffle(leases)
    _play(strategy, pool, requests, leases, rng, 2 * size)  # builds what is built once
    if isinstance(strategy, Learner):
        for server in pool.servers:
            strategy.answered(server, _Answer(), rng.expovariate(1.0), 0.0)  # type: ignore[arg-type]
    _trouble(pool, condition)
    whole = min(_play(strategy, pool, requests, leases, rng, _PICKS) for _ in range(rounds))
    fixed = _Fixed(pool.servers[-1])  # those in trouble are the first ones
    leased = min(_play(fixed, pool, requests, leases, rng, _PICKS) for _ in range(rounds))
    if condition != "lease":
        return max(0.0, whole - leased)
    strategy.detach(pool)
    plain = min(_play(fixed, pool, requests, leases, rng, _PICKS) for _ in range(rounds))
    return max(0.0, leased - plain)


def _trouble(pool: Pool, condition: str) -> None:
    """At the time of the picks, some of the servers are not as the others."""
    if condition == "warming":
        pool.servers[1].set_up(False, "")
        pool.servers[1].set_up(True, "")
        pool.tick(1.0)
    for server in pool.servers[: {"failed": 1, "out": 3}.get(condition, 0)]:
        server.failed(1.0)


class _Fixed:
    """A strategy that costs nothing."""

    def __init__(self, server: object) -> None:
        self._server = server

    def pick(self, *_: object) -> object:
        return self._server


def _play(strategy, pool, requests, leases, rng, picks) -> float:  # type: ignore[no-untyped-def]
    """Picks, each of which ends the oldest request; nanoseconds a turn."""
    began = perf_counter_ns()
    for _ in range(picks):
        leases.popleft().release(1000)
        request = next(requests)
        leases.append(pool.lease(strategy.pick(pool, request, 1.0, rng), 1.0, request))
    return (perf_counter_ns() - began) / picks


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.strategies", description=__doc__)
    parser.add_argument("strategy", choices=[*STRATEGIES, []], nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


def _table(figures: dict[str, dict[str, float]]) -> Table:
    table = Table(box=box.SIMPLE, title="nanoseconds a pick", title_justify="left")
    table.add_column("strategy")
    columns = [f"{size} {condition}".strip() for size, condition in COLUMNS]
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in figures.items():
        cells = [f"{row[c]:,.0f}" if row[c] <= MUST else f"[red]{row[c]:,.0f}[/]" for c in columns]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
