"""`python -m bench.live`: see bench/README.md."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.interruption import sigterm_is_ctrl_c
from bench.live.cases import CASES
from bench.live.errors import exit_on_error
from bench.live.machine import describe_machine
from bench.live.output import write_json
from bench.live.peers import PEERS
from bench.live.plot import INSTALL as PLOT_INSTALL
from bench.live.plot import write_plot
from bench.live.python_build import describe
from bench.live.report import print_report
from bench.live.runner import make_plan, run, running_bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "results"


def main() -> int:
    options = _parse_options()
    # A terminal says how wide it is. A pipe does not, and a cut table is of no use.
    console = Console(width=None if sys.stdout.isatty() else 170)
    sigterm_is_ctrl_c()
    plan = make_plan(
        [CASES[name] for name in options.cases],
        [PEERS[name] for name in options.only],
        options.rounds,
        options.seed,
    )
    for what in plan.missing:
        name, _, install = what.partition(": ")
        console.print(f"[yellow]{name} is missing[/]; to measure with it: {install}")
    if plan.is_empty():
        console.print("nothing to measure")
        return 2
    machine = describe_machine()
    machine["peers"] = {peer.name: peer.version() for peer in plan.peers}
    machine["pythons"] = {
        peer.name: describe(peer.python) for peer in plan.peers if peer.python and not peer.cases
    }

    def progress(step: str) -> None:
        console.print(f"[dim]{step}[/]", highlight=False)

    with exit_on_error(console), running_bench(options.seconds) as bench:
        machine["small_upstream"] = bench.upstreams.small_server
        results = run(plan, bench, progress)

    print_report(console, results, plan.cases, machine)
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {
        "seconds": options.seconds,
        "rounds": options.rounds,
        "seed": plan.seed,
        "missing": plan.missing,
    }
    record = options.output / "live.json"
    write_json(record, results, machine=machine, run=settings)
    console.print(f"\nwritten: {record}", soft_wrap=True)
    picture = options.output / "live.png"
    if write_plot(picture, results):
        console.print(f"written: {picture}", soft_wrap=True)
    else:
        console.print(f"no picture: matplotlib is missing; to have one: {PLOT_INSTALL}")
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.live",
        description="Measure hermes_lb beside nginx, HAProxy, Envoy and a plain aiohttp proxy.",
    )
    parser.add_argument("--quick", action="store_true", help="one round of 1 s: a smoke test")
    parser.add_argument("--seconds", type=_seconds, help="of each proxy in a round (default 3)")
    parser.add_argument("--rounds", type=_positive, help="interleaved rounds (default 5)")
    parser.add_argument("--seed", type=int, help="of the order of proxies (default: random)")
    parser.add_argument(
        "--only",
        type=_names(PEERS),
        default=list(PEERS),
        metavar="PEER,...",
        help=f"of {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--cases",
        type=_names(CASES),
        default=list(CASES),
        metavar="CASE,...",
        help=f"of {', '.join(CASES)}",
    )
    parser.add_argument("--output", type=Path, default=_DEFAULT_OUTPUT, metavar="DIR")
    options = parser.parse_args()
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    return options


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.2 <= number <= 600:
        raise argparse.ArgumentTypeError("from 0.2 to 600")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 600:
        raise argparse.ArgumentTypeError("from 1 to 600")
    return number


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of "a,b" into names out of `known`, in `known`'s order."""

    def parse(text: str) -> list[str]:
        asked = {name.strip() for name in text.split(",")}
        if unknown := asked - set(known):
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}"
            )
        return [name for name in known if name in asked]

    return parse


if __name__ == "__main__":
    sys.exit(main())
