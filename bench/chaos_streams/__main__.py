"""`python -m bench.chaos_streams`: see README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.chaos.arena import Arena
from bench.chaos.report import Report, print_reports, write_json
from bench.chaos_streams.kinds import KINDS
from bench.chaos_streams.question import MOST_WORDS
from bench.chaos_streams.streams import PHASES, Streams
from bench.interruption import sigterm_is_ctrl_c
from bench.live.machine import describe_machine
from bench.live.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> int:
    options = _parse_options()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    sigterm_is_ctrl_c()

    def progress(text: str) -> None:
        console.print(f"[dim]  {text}[/]")

    scenario = Streams(
        clients=options.clients,
        workers=options.workers,
        processes=options.processes,
        seconds=options.seconds,
        seed=options.seed,
        words=options.words,
        kinds=options.kinds,
        phases=options.only,
        faults=options.faults,
        progress=progress,
    )
    machine = describe_machine()
    try:
        report = asyncio.run(_run(scenario, options.output))
    except KeyboardInterrupt:
        console.print("interrupted; everything started has been ended")
        return 130
    print_reports(console, {scenario.name: scenario.title}, {scenario.name: report})
    if options.json is not None:
        run = {"machine": machine, "seed": options.seed, "seconds": options.seconds}
        write_json(options.json, {scenario.name: report}, run)
    return 1 if report.broken else 0


async def _run(scenario: Streams, output: Path) -> Report:
    report = Report()
    with tempfile.TemporaryDirectory(prefix="hermes-chaos-streams-") as folder:
        gc.collect()
        try:
            async with Arena(Path(folder), report) as arena:
                await scenario.run(arena)
        except Exception:
            report.must(False, "the scenario runs to its end", traceback.format_exc())
        if report.broken:
            await asyncio.to_thread(_keep, Path(folder), output / f"chaos-streams-{scenario.seed}")
    return report


def _keep(folder: Path, kept: Path) -> None:
    """All logs, for study."""
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.sock"))
    print(f"the logs are kept in {kept}")


def _faults(text: str) -> Mapping[str, float]:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: float(every) for name, _, every in pairs}


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos_streams",
        description="Streams under faults. Exit status 1: a promise was broken.",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults' schedule (default 1)")
    parser.add_argument("--clients", type=int, default=200, help="at a time (default 200)")
    parser.add_argument("--workers", type=int, default=4, help="of agents (default 4)")
    parser.add_argument("--processes", type=int, default=2, help="of the balancer (default 2)")
    parser.add_argument(
        "--words", type=int, default=Streams.words,
        help=f"of the longest answer, 0.3 s apart (default {Streams.words}, at most {MOST_WORDS})",
    )  # fmt: skip
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
        help=f"of clients: {', '.join(KINDS)}",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", choices=PHASES, default=list(PHASES), metavar="PHASE",
        help=f"of {', '.join(PHASES)}",
    )  # fmt: skip
    parser.add_argument(
        "--faults", type=_faults, metavar="NAME=SECONDS,...",
        help="in place of each phase's own: names, and the seconds between two of a kind",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
