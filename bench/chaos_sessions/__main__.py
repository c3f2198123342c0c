"""`python -m bench.chaos_sessions`: see README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.chaos_sessions.backends import BACKENDS, Sentinel
from bench.chaos_sessions.report import print_tally
from bench.chaos_sessions.run import Plan, Run
from bench.interruption import sigterm_is_ctrl_c
from bench.live.processes import ROOT

if TYPE_CHECKING:
    from bench.chaos_sessions.tally import Tally

_MOST_DUMPS = 5


def main() -> int:
    options = _parse_options()
    # A pipe does not say how wide it is, and a cut table is of no use.
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    sigterm_is_ctrl_c()
    tallies: dict[str, Tally] = {}
    try:
        for name in options.only:
            seconds = options.minutes * 60 / len(options.only)
            backend = BACKENDS[name]
            if name == "sentinel":
                guard = not options.unguarded
                backend = partial(Sentinel, options.min_replicas, is_guarded=guard)
            plan = Plan(backend, seconds, options.seed, options.workers, options.sessions)
            console.print(f"[dim]{name}: {seconds:.0f} s, seed {options.seed}[/]")
            tallies[name] = asyncio.run(_run(name, plan, console, options.output))
            print_tally(console, name, tallies[name])
    except KeyboardInterrupt:
        console.print("interrupted; everything started has been ended")
        return 130
    return 1 if any(tally.violations for tally in tallies.values()) else 0


async def _run(name: str, plan: Plan, console: Console, output: Path) -> Tally:
    def progress(text: str) -> None:
        console.print(f"[dim]  {text}[/]")

    with tempfile.TemporaryDirectory(prefix="hermes-chaos-sessions-") as folder:
        async with Run(plan, Path(folder), progress) as run:
            await run.rush()
            await run.settle()
            await run.judge()
            await _write_dumps(run, f"{name}-{plan.seed}", output, console)
            return run.tally


async def _write_dumps(run: Run, label: str, output: Path, console: Console) -> None:
    """Of the first sessions that broke a promise, for study."""
    violations = run.tally.violations
    broken = [each.session_id for each in violations if each.session_id]
    for session_id in list(dict.fromkeys(broken))[:_MOST_DUMPS]:
        dump = await run.dump(session_id)
        dump["violations"] = [vars(each) for each in violations if each.session_id == session_id]
        path = output / f"chaos-sessions-{label}-{session_id[:8]}.json"
        await asyncio.to_thread(_write, path, json.dumps(dump, indent=1, default=sorted) + "\n")
        console.print(f"written: {path}", soft_wrap=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos_sessions",
        description="Sessions under faults. Exit status 1: an invariant was broken.",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="of faults in all (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults' schedule (default 1)")
    parser.add_argument("--workers", type=int, default=3, help="processes (default 3)")
    parser.add_argument("--sessions", type=int, default=8, help="at the same time (default 8)")
    parser.add_argument(
        "--min-replicas",
        type=int,
        help=f"sentinel: of {Sentinel.REPLICAS}, that must have a `once` record (default: all)",
    )
    parser.add_argument(
        "--unguarded",
        action="store_true",
        help="sentinel: servers without min-replicas-to-write, which lose more in a failover",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BACKENDS,
        default=list(BACKENDS),
        metavar="NAME",
        help=f"of {', '.join(BACKENDS)}",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
