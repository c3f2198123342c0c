"""`python -m tests.differential --minutes 5`: look for bytes that can be read in two ways.

Exit status 1 if there are any. With `--save` they become files of the corpus.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from tests.differential import corpus
from tests.differential.fuzz import Found, Fuzz, Tally

_REPORT_EVERY = 5.0  # seconds


class _Progress:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        if time.monotonic() - self._last >= _REPORT_EVERY:
            self.show(tally)

    def show(self, tally: Tally) -> None:
        self._last = now = time.monotonic()
        seconds = max(now - self._began, 0.001)
        total = tally.examples.total()
        outcomes = ", ".join(f"{name} {n:,}" for name, n in sorted(tally.outcomes.items()))
        print(
            f"{seconds:6.0f} s  {total:,} examples, {total / seconds:.0f}/s: {outcomes}; "
            f"{len(tally.found)} disagreements",
            flush=True,
        )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--save", action="store_true", help="write what is found to the corpus")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    progress = _Progress()

    def announce(found: Found) -> None:
        name, text = found.as_file()
        print(f"\n{found.problem}\nseed {found.seed}, {found.case}\n{text}", flush=True)
        if options.save:
            (corpus.FOLDER / name).write_text(text, "ascii")
            print(f"written to {name}", flush=True)

    tally = Fuzz(options.seed, progress, announce).run(options.minutes * 60)
    progress.show(tally)
    for found in tally.found.values():
        print(f"found {found.count} times: {found.kind}")
    _show_strict(tally)
    return 1 if tally.found else 0


def _show_strict(tally: Tally) -> None:
    if tally.strict:
        print("refused, though all referees read it alike (not an error):")
    for reason, count in tally.strict.most_common():
        print(f"  {count:6,}  {reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
