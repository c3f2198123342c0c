"""`python -m bench.chaos`: see README.md beside this file."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console

from bench.chaos.arena import Arena
from bench.chaos.report import Report, print_reports, write_json
from bench.chaos.scenario import Skipped
from bench.chaos.scenarios import SCENARIOS
from bench.interruption import sigterm_is_ctrl_c
from bench.live.machine import describe_machine

if TYPE_CHECKING:
    from bench.chaos.scenario import Scenario


def main() -> int:
    options = _parse_options()
    # A terminal says how wide it is. A pipe does not, and a cut table is of no use.
    console = Console(width=None if sys.stdout.isatty() else 150)
    if options.list:
        for name in options.only:
            console.print(f"{name:18} {SCENARIOS[name].title}")
        return 0
    sigterm_is_ctrl_c()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    machine = describe_machine()
    reports: dict[str, Report] = {}
    try:
        for name in options.only:
            scenario = SCENARIOS[name].of(seconds=options.seconds, seed=options.seed)
            console.print(f"[dim]{name}: {scenario.title}[/]", highlight=False)
            reports[name] = uvloop.run(_run(scenario, cores))
    except KeyboardInterrupt:
        console.print("interrupted; everything started has been ended")
        return 130
    print_reports(console, {name: SCENARIOS[name].title for name in reports}, reports)
    if options.json is not None:
        run = {"machine": machine, "seed": options.seed, "seconds": options.seconds}
        write_json(options.json, reports, run)
        console.print(f"written: {options.json}", soft_wrap=True)
    return 1 if any(report.broken for report in reports.values()) else 0


async def _run(scenario: Scenario, cores: list[int]) -> Report:
    """The balancer has the first core, with the control process; all others share the last."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="hermes-chaos-") as folder:
        gc.collect()
        try:
            async with Arena(Path(folder), report, core=cores[0], load_core=cores[-1]) as arena:
                await scenario.run(arena)
        except Skipped as reason:
            report.skipped = str(reason)
        except Exception:
            report.must(False, "the scenario runs to its end", traceback.format_exc())
    report.judge_lags()
    return report


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        description="Faults at load. Exit status 1: hermes_lb broke one of its promises.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SCENARIOS,
        default=list(SCENARIOS),
        metavar="NAME",
        help=f"of {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios, and do nothing")
    parser.add_argument(
        "--seconds", type=float, help="length of what is measured over a time (default: 2 or 3)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the faults' schedule (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
