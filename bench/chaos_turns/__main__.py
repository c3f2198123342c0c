"""`python -m bench.chaos_turns`: see README.md beside this file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench.chaos.alone import add_choice, make_parser, play
from bench.chaos_turns.kinds import KINDS
from bench.chaos_turns.stores import STORES
from bench.chaos_turns.turns import PHASES, Turns

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def main() -> int:
    options = _parse_options()

    def make(progress: Callable[[str], None]) -> Turns:
        return Turns(
            clients=options.clients,
            processes=options.processes,
            seconds=options.seconds,
            seed=options.seed,
            kinds=options.kinds,
            phases=options.only,
            faults=options.faults,
            store=options.store,
            is_protected=not options.unprotected,
            progress=progress,
        )

    return play(make, options, options.seconds)


def _parse_options() -> argparse.Namespace:
    parser = make_parser("python -m bench.chaos_turns", "Turns under faults.")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each phase (default 40)")
    parser.add_argument("--clients", type=int, default=40, help="at a time (default 40)")
    parser.add_argument("--processes", type=int, default=2, help="of each balancer (default 2)")
    parser.add_argument(
        "--store", choices=STORES, default="durable",
        help="durable: one server on its file; sentinel: a master and a replica",
    )  # fmt: skip
    parser.add_argument(
        "--unprotected", action="store_true",
        help="without turns at the balancers, to see what they prevent",
    )  # fmt: skip
    add_choice(parser, "--kinds", list(KINDS), "of clients:")
    add_choice(parser, "--only", list(PHASES), "phases, of")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
