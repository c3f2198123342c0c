"""`python -m tests.phases`: show, merge or compare recordings of phases and deadlines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.phases.recording import Recording, compare, compare_tests

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the command -> the exit status: 1 if `diff` has found something."""
    options = _parser().parse_args(arguments)
    recordings = [Recording.load(path) for path in options.recordings]
    if options.command == "merge":
        merged = recordings[0]
        for other in recordings[1:]:
            merged.merge(other, same_run=False)
        options.output.write_text(merged.dumps())
        return 0
    recordings = [
        one.simplified(letters=options.letters, timeouts=options.timeouts) for one in recordings
    ]
    if options.command == "show":
        return _show(recordings[0])
    return _diff(*recordings, by_test=options.by_test)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.phases", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    simple = argparse.ArgumentParser(add_help=False)
    simple.add_argument("--letters", action="store_true", help="only the letters of phases")
    simple.add_argument(
        "--timeouts", action="store_true", help="not whether a deadline is absolute or idle"
    )
    show = commands.add_parser("show", parents=[simple], help="all transitions, sorted")
    show.add_argument("recordings", nargs=1, type=Path, metavar="RECORDING")
    merge = commands.add_parser("merge", help="one recording of several runs")
    merge.add_argument("output", type=Path)
    merge.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING")
    diff = commands.add_parser("diff", parents=[simple], help="new and missing transitions")
    diff.add_argument("recordings", nargs=2, type=Path, metavar="RECORDING")
    diff.add_argument("--by-test", action="store_true", help="compare each test by itself")
    return parser


def _show(recording: Recording) -> int:
    for transition, seen in sorted(recording.transitions.items()):
        print(f"{transition}  ({len(seen.tests)} tests: {min(seen.tests)})")
    return 0


def _diff(old: Recording, new: Recording, *, by_test: bool) -> int:
    if by_test:
        lines = compare_tests(old, new)
        print("\n".join(lines))
        return 1 if lines else 0
    difference = compare(old, new)
    for heading, transitions in difference._asdict().items():
        print(f"{heading}: {len(transitions)}")
        for transition, test in transitions.items():
            print(f"  {transition}\n      {test}")
    print(f"tests: {len(old.tests)} and {len(new.tests)}, {len(old.tests & new.tests)} in both")
    return 1 if difference.new or difference.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
