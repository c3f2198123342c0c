"""`python -m bench.papers --traces DIRECTORY`: run all claims, then write the page.

The page is docs/strategies/papers.md. Each result is kept in papers.json beside it at once, so that
an interrupted run goes on where it was, as long as code and traces are the same. Some ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.papers.claims import AGENTS, CLAIMS, CODE, CONVERSATION
from bench.papers.kept import Kept, state_of
from bench.papers.lab import Lab
from bench.papers.page import KEPT, PAGE, page
from bench.papers.verdict import verdict

if TYPE_CHECKING:
    from bench.papers.claims import Claim
    from bench.papers.lab import Pair


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.papers", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="directory of the traces")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", metavar="STRATEGY", help="only claims of this strategy")
    asked = parser.parse_args()
    lab = Lab(asked.traces)
    kept = Kept(KEPT, state_of(asked.traces / name for name in (AGENTS, CODE, CONVERSATION)))
    results: list[tuple[Claim, list[Pair]]] = []
    for claim in CLAIMS:
        if asked.only not in (None, claim.strategy):
            continue
        pairs = [_pair(lab, kept, claim, seed) for seed in range(1, asked.seeds + 1)]
        found = claim.ratio(pairs)
        print(
            f"{claim.strategy} beside {claim.baseline}: {found.middle:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), {verdict(found, claim.claimed)}",
            flush=True,
        )
        results.append((claim, pairs))
    if asked.only is None:
        PAGE.write_text(page(results))
        print(f"wrote {PAGE}")


def _pair(lab: Lab, kept: Kept, claim: Claim, seed: int) -> Pair:
    pair = kept.get(claim.key, seed)
    if pair is None:
        pair = claim.check(lab, seed)
        kept.add(claim.key, seed, pair)
    return pair


if __name__ == "__main__":
    main()
