"""`python -m bench.papers --traces DIRECTORY`: run all claims, write the page and results.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.papers.claims import CLAIMS
from bench.papers.lab import Lab
from bench.papers.page import page
from bench.papers.verdict import verdict
from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.intervals import ratio

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "strategies" / "papers.md"
_RESULTS = Path(__file__).resolve().parents[1] / "results" / "papers.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.papers", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="directory of the traces")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", metavar="STRATEGY", help="claims of one strategy; no page")
    asked = parser.parse_args()
    lab = Lab(asked.traces, asked.seeds)
    results = []
    for claim in CLAIMS:
        if asked.only not in (None, claim.strategy):
            continue
        if not {claim.strategy, claim.baseline} <= set(STRATEGIES):
            sys.exit(f"there is no strategy {claim.strategy!r} or {claim.baseline!r}")
        worse, better = claim.check(lab)
        found = ratio(worse, better) if claim.is_lower_better else ratio(better, worse)
        results.append((claim, found))
        print(
            f"{claim.strategy} beside {claim.baseline}: {found.middle:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), {verdict(found, claim.claimed)}",
            flush=True,
        )
    rows = [
        {"strategy": c.strategy, "baseline": c.baseline, "source": c.source, **found._asdict()}
        for c, found in results
    ]
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    if asked.only is None:
        _PAGE.write_text(page(results, asked.seeds))
        print(f"wrote {_PAGE}")


if __name__ == "__main__":
    main()
