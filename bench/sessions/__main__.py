"""`python -m bench.sessions`: one worker on one core; Valkey and the clients on another."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from agent_worker.redis_server import RedisServer
from bench.live.machine import describe_machine
from bench.live.processes import ROOT
from bench.sessions import growth, idle, streams, turns
from bench.sessions.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Figures = dict[str, float]

CASES: dict[str, Callable[[Rig], Awaitable[dict[str, Figures]]]] = {
    "turns": turns.measure,
    "streams": streams.measure,
    "growth": growth.measure,
    "idle": idle.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sessions", description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="a case; repeatable")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])  # inherited by Valkey; the worker gets the first core
    # A pipe does not say how wide it is, and a cut table is of no use.
    console = Console(width=None if sys.stdout.isatty() else 150)
    found: dict[str, Any] = {"machine": describe_machine(), "cases": {}}
    with RedisServer.start() as server, tempfile.TemporaryDirectory() as folder:
        for name in options.only or CASES:
            rig = Rig(server, Path(folder), core=cores[0])
            rows = asyncio.run(CASES[name](rig))
            found["cases"][name] = rows
            console.print(_table(name, rows))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "sessions.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"written: {path}")


def _table(name: str, rows: dict[str, Figures]) -> Table:
    columns = list(next(iter(rows.values())))
    table = Table("", *columns, title=name, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for label, figures in rows.items():
        table.add_row(label, *(_shown(figures[column]) for column in columns))
    return table


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
