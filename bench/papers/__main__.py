"""`python -m bench.papers --traces DIRECTORY`: run all claims, then write the page.

The page is docs/strategies/papers.md. Results are kept in bench/results/papers.json, so that claims
can be run one by one (`--only`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.papers.claims import CLAIMS
from bench.papers.lab import Lab
from bench.papers.page import page
from bench.papers.verdict import verdict
from hermes_lb.lab.intervals import Ratio, ratio

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "strategies" / "papers.md"
_RESULTS = Path(__file__).resolve().parents[1] / "results" / "papers.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.papers", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="directory of the traces")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", metavar="STRATEGY", help="only claims of this strategy")
    asked = parser.parse_args()
    lab = Lab(asked.traces, asked.seeds)
    known = json.loads(_RESULTS.read_text()) if asked.only and _RESULTS.exists() else {}
    for claim in CLAIMS:
        if asked.only not in (None, claim.strategy):
            continue
        worse, better = claim.check(lab)
        found = ratio(worse, better) if claim.is_lower_better else ratio(better, worse)
        known[claim.key] = [asked.seeds, *found]
        print(
            f"{claim.strategy} beside {claim.baseline}: {found.middle:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), {verdict(found, claim.claimed)}",
            flush=True,
        )
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    missing = [claim.key for claim in CLAIMS if claim.key not in known]
    if missing:
        print(f"the page needs {', '.join(missing)} too")
        return
    _PAGE.write_text(
        page(
            [
                (claim, seeds, Ratio(*rest))
                for claim in CLAIMS
                for seeds, *rest in [known[claim.key]]
            ]
        )
    )
    print(f"wrote {_PAGE}")


if __name__ == "__main__":
    main()
