"""docs/strategies/papers.md, from the results of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.papers.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.papers.claims import Claim
    from hermes_lb.lab.intervals import Ratio

_HEAD: Final = """# Papers, checked

Claims of papers whose strategies are here, run in the [laboratory](../laboratory.md) on published
traces. `python -m bench.papers --traces DIRECTORY` writes this page; docs/laboratory.md names the
traces. "Ours" is how many times better the strategy's figure is than the baseline's on the same
workloads: the mean over the seeds (of the logarithms), and its 95 % interval (Student's t).

- *Confirmed*: the interval is above 1 and reaches the paper's figure. *Partly*: it is above 1.
- *Not seen*: it contains 1. Such a claim may hold on other traffic, servers and loads: below is how
  each run differs from the paper's.

| strategy, beside | claim | paper | ours | seeds | verdict |
|---|---|---:|---:|---:|---|
"""


def page(results: Sequence[tuple[Claim, int, Ratio]]) -> str:
    """`results`: each claim with the number of its seeds."""
    rows = "".join(
        f"| `{claim.strategy}`, `{claim.baseline}` | {claim.says} ({claim.source}) "
        f"| {claim.figure} | {found.middle:.2f} ({found.low:.2f} to {found.high:.2f}) "
        f"| {seeds} | {verdict(found, claim.claimed)} |\n"
        for claim, seeds, found in results
    )
    details = "".join(
        f"- `{claim.strategy}` beside `{claim.baseline}` ({claim.source}). Run: {claim.run}. "
        f"Differs: {claim.differs}.\n"
        for claim, _, _ in results
    )
    return _HEAD + rows + "\n## Runs, and what differs\n\n" + details
