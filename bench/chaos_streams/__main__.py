"""`python -m bench.chaos_streams`: see README.md beside this file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench.chaos.alone import add_choice, make_parser, play
from bench.chaos_streams.kinds import KINDS
from bench.chaos_streams.question import MOST_WORDS
from bench.chaos_streams.streams import PHASES, Streams

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def main() -> int:
    options = _parse_options()

    def make(progress: Callable[[str], None]) -> Streams:
        return Streams(
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

    return play(make, options, options.seconds)


def _parse_options() -> argparse.Namespace:
    parser = make_parser("python -m bench.chaos_streams", "Streams under faults.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default 60)")
    parser.add_argument("--clients", type=int, default=200, help="at a time (default 200)")
    parser.add_argument("--workers", type=int, default=4, help="of agents (default 4)")
    parser.add_argument("--processes", type=int, default=2, help="of the balancer (default 2)")
    parser.add_argument(
        "--words", type=int, default=Streams.words,
        help=f"of the longest answer, 0.3 s apart (default {Streams.words}, at most {MOST_WORDS})",
    )  # fmt: skip
    add_choice(parser, "--kinds", list(KINDS), "of clients:")
    add_choice(parser, "--only", list(PHASES), "phases, of")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
