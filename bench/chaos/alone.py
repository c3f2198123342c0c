"""The command line of a scenario that is a program of its own."""

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
from bench.interruption import sigterm_is_ctrl_c
from bench.live.machine import describe_machine
from bench.live.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.chaos.scenario import Scenario

_MOST_TRACE = 600  # characters: its end says what it was
_RESULTS = ROOT / "bench" / "results"


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """With the options that `play` needs."""
    parser = argparse.ArgumentParser(
        prog=program, description=f"{description} Exit status 1: a promise was broken."
    )
    parser.add_argument("--seed", type=int, default=1, help="of the faults' schedule (default 1)")
    parser.add_argument(
        "--faults", type=_faults, metavar="NAME=SECONDS,...",
        help="in place of each phase's own: names, and the seconds between two of a kind",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="for the logs, if it fails")
    return parser


def add_choice(
    parser: argparse.ArgumentParser, name: str, choices: Sequence[str], help_: str
) -> None:
    """Some of these; all by default."""
    parser.add_argument(
        name, nargs="+", choices=choices, default=list(choices), metavar="NAME",
        help=f"{help_} {', '.join(choices)}",
    )  # fmt: skip


def play(
    make: Callable[[Callable[[str], None]], Scenario], options: argparse.Namespace, seconds: float
) -> int:
    """Run the scenario that `make` makes, of a function that shows progress -> the exit status.

    All logs are kept in `options.output` if a promise was broken.
    """
    # A terminal says how wide it is. A pipe does not, and a cut table is of no use.
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    sigterm_is_ctrl_c()

    def progress(text: str) -> None:
        console.print(f"[dim]  {text}[/]")

    scenario = make(progress)
    machine = describe_machine()
    try:
        report = asyncio.run(
            _run(scenario, options.output / f"chaos-{scenario.name}-{options.seed}")
        )
    except KeyboardInterrupt:
        console.print("interrupted; everything started has been ended")
        return 130
    print_reports(console, {scenario.name: scenario.title}, {scenario.name: report})
    if options.json is not None:
        run = {"machine": machine, "seed": options.seed, "seconds": seconds}
        write_json(options.json, {scenario.name: report}, run)
    return 1 if report.broken else 0


async def _run(scenario: Scenario, kept: Path) -> Report:
    report = Report()
    with tempfile.TemporaryDirectory(prefix="hermes-chaos-") as folder:
        gc.collect()
        try:
            async with Arena(Path(folder), report) as arena:
                await scenario.run(arena)
        except Exception:
            trace = traceback.format_exc()
            report.must(False, "the scenario runs to its end", trace[-_MOST_TRACE:])
        if report.broken:
            await asyncio.to_thread(_keep, Path(folder), kept)
    return report


def _keep(folder: Path, kept: Path) -> None:
    """All logs, for study."""
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.sock"))
    print(f"the logs are kept in {kept}")


def _faults(text: str) -> Mapping[str, float]:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name: float(every) for name, _, every in pairs}
