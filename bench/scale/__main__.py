"""`python -m bench.scale`: live streams up to the limit of descriptors, plain and as turns, and a
pool of 10,000 servers. Five minutes; two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.interruption import sigterm_is_ctrl_c
from bench.live.cases.base import FOREIGN_LIMIT
from bench.live.errors import exit_on_error
from bench.live.machine import describe_machine
from bench.live.peers.hermes_lb import HermesLb, HermesLbCompiled
from bench.live.processes import ROOT
from bench.live.python_build import describe
from bench.live.runner import running_bench
from bench.scale import servers, streams
from bench.scale.figure import line_plot

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_KB = 5.0  # asked of a live stream
_JUDGED = 1_000  # streams, from which on the allocator's pages do not matter

# key -> heading, digits
_STREAMS = {
    "streams": ("streams", 0),
    "opened_per_second": ("opened, 1/s", 0),
    "memory_kb": ("KB each", 2),
    "cpu_us": ("CPU, µs a token", 1),
    "store_us": ("the store's", 1),
    "first_p99_ms": ("first token p99, ms", 1),
    "first_direct_p99_ms": ("without us", 1),
    "delivered": ("delivered", 3),
    "lag_p990_ms": ("lag p99, ms", 1),
    "lag_p999_ms": ("lag p99.9, ms", 1),
    "lag_worst_ms": ("worst, ms", 1),
    "largest_share": ("fullest process, of its share", 2),
    "lost_in_reload": ("lost in a reload", 0),
    "foreign": ("others' CPU", 2),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--only", choices=("streams", "turns", "servers"), help="one part")
    parser.add_argument("--compiled", action="store_true", help="streams of the compiled build")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 170)
    sigterm_is_ctrl_c()
    build = HermesLbCompiled if options.compiled else HermesLb
    if not build().is_installed():
        console.print(f"{build.name} is missing; to measure it: {build.install}")
        return 2
    machine = describe_machine() | {"build": f"{build.name}: {describe(str(build.python))}"}
    found: dict[str, Any] = {"machine": machine}

    def progress(step: str) -> None:
        console.print(f"[dim]{step}[/]", highlight=False)

    with exit_on_error(console), running_bench(0) as bench:
        if options.only in (None, "streams"):
            found["curve"] = streams.curve(build, bench, progress)
            found["two_processes"] = streams.two_processes(build, bench, progress)
            found["full_collection"] = streams.full_collection(bench, progress)
        if options.only in (None, "turns"):
            found["turns"] = streams.turns(bench, progress)
        if options.only in (None, "servers"):
            found["picks"] = servers.picks(progress)
            found["checks"] = servers.checks_and_scrape(bench, progress)
    console.print(f"\n[bold]{machine['cpu']}[/], {machine['cores']} cores; {machine['build']}")
    _print(console, found)
    _write(options.output, found)
    console.print(f"written: {options.output}/scale.json, scale.svg", soft_wrap=True)
    return 0


def _print(console: Console, found: dict[str, Any]) -> None:
    if "curve" in found:
        rows = [*found["curve"], found["two_processes"]]
        console.print(_table("Live streams; the last row in two processes", rows))
        worst = max(row["memory_kb"] for row in rows if row["streams"] >= _JUDGED)
        noise = max(row["foreign"] for row in rows)
        if noise > FOREIGN_LIMIT:
            console.print(f"noisy: others used up to {noise:.0%} of a core; CPU and lag are theirs")
        is_met = worst <= MOST_KB
        console.print(
            f"memory of a live stream: {worst:.2f} KB at most, "
            f"asked <= {MOST_KB:g}: {'yes' if is_met else 'NO'}"
        )
        console.print(f"a full collection: {found['full_collection']['collection_ms']:.1f} ms")
    if "turns" in found:
        console.print(_table("Turns; the last row in two processes", found["turns"]))
    if "picks" in found:
        figures = ", ".join(f"{name} {ns / 1e3:.1f}" for name, ns in found["picks"].items())
        console.print(f"a pick among {servers.COUNT:,} servers, µs: {figures}")
        checks = ", ".join(f"{key} {value:,.2f}" for key, value in found["checks"].items())
        console.print(f"checks and scrape: {checks}")


def _table(title: str, rows: Sequence[dict[str, float]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading, _ in _STREAMS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (
            f"{row[key]:,.{digits}f}" if key in row else "" for key, (_, digits) in _STREAMS.items()
        )
        table.add_row(*cells)
    return table


def _write(folder: Path, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    if "curve" in found:
        points = [(row["streams"], row["cpu_us"]) for row in found["curve"]]
        plot = line_plot("CPU per token, 9,900 tokens/s in all", "live streams", points, "µs")
        (folder / "scale.svg").write_text(plot)


if __name__ == "__main__":
    sys.exit(main())
