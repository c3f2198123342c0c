"""docs/strategies/papers.md, from the results of a run."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Final

from bench.papers.verdict import verdict
from hermes_lb.lab.report import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.papers.claims import Claim
    from bench.papers.lab import Pair

_FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "strategies"
PAGE: Final = _FOLDER / "papers.md"
KEPT: Final = _FOLDER / "papers.json"

_HEAD: Final = """# Papers, checked

Claims of papers whose strategies are here, run in the [laboratory](../laboratory.md) on published
traces. `python -m bench.papers --traces DIRECTORY --seeds {seeds}` writes this page;
docs/laboratory.md names the traces. All rows are of one run: the same code, the same traces, and
{seeds} seeds of each. "Ours" is how many times better the strategy's figure is than the baseline's
on the same workloads: the mean over the seeds (of the logarithms), and its 95 % interval (Student's
t). The figures of each seed are in [papers.json](papers.json).

- *Confirmed*: the interval is above 1 and reaches the paper's figure. *Partly*: it is above 1.
- *Not seen*: it contains 1. *Not seen; the opposite*: it is below 1. Such a claim may hold on other
  traffic, servers and loads: below is how each run differs from the paper's.

Traces are played as a whole, to four servers. Beside an overloaded baseline the ratio says how long
the run was and nothing else, so the loads of the agents' trace are the highest ones, in tenths, at
which the baseline keeps up: 0.2 without affinity, 0.5 with it. Strategies have their default
options unless the run says otherwise.

| strategy, beside | claim | paper | ours | verdict |
|---|---|---:|---:|---|
"""


def page(results: Sequence[tuple[Claim, Sequence[Pair]]]) -> str:
    """`results`: each claim with a pair of each seed, as many of each."""
    rows = details = ""
    for claim, pairs in results:
        found = claim.ratio(pairs)
        both = f"`{claim.strategy}`, `{claim.baseline}`"
        rows += (
            f"| {both} | {claim.says} ({claim.source}) "
            f"| {claim.figure} | {found.middle:.2f} ({found.low:.2f} to {found.high:.2f}) "
            f"| {verdict(found, claim.claimed)} |\n"
        )
        baseline = _shown(fmean(pair.baseline for pair in pairs), claim.unit)
        strategy = _shown(fmean(pair.strategy for pair in pairs), claim.unit)
        details += (
            f"- {both} ({claim.source}). Run: {claim.run}. Means: {strategy} and {baseline}. "
            f"Differs: {claim.differs}.\n"
        )
    head = _HEAD.format(seeds=len(results[0][1]))
    return f"{head}{rows}\n## Runs, and what differs\n\n{details}"


def _shown(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else f"{value:.2f} {unit}"
