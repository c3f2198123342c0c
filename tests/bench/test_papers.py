"""The check of papers' claims: verdicts, the page, and that each claim can run."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from bench.papers import claims
from bench.papers.claims import CLAIMS
from bench.papers.lab import Lab
from bench.papers.page import page
from bench.papers.verdict import CONFIRMED, NOT_SEEN, OPPOSITE, PARTLY, verdict
from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.intervals import Ratio
from tests.lab.test_traces import EXCERPTS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Ratio(2.0, 1.5, 2.5), CONFIRMED),
        (Ratio(1.5, 1.2, 1.9), PARTLY),
        (Ratio(1.5, 0.9, 2.5), NOT_SEEN),
        (Ratio(0.8, 0.7, 0.9), OPPOSITE),
    ],
)
def test_a_verdict_goes_by_the_interval(found: Ratio, says: str) -> None:
    assert verdict(found, 2.0) == says


def test_each_claim_is_of_strategies_that_there_are_and_has_a_row() -> None:
    text = page([(claim, 5, Ratio(1.0, 0.9, 1.1)) for claim in CLAIMS])
    for claim in CLAIMS:
        assert {claim.strategy, claim.baseline} <= set(STRATEGIES)
        assert f"| `{claim.strategy}`, `{claim.baseline}` | {claim.says} ({claim.source})" in text
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    assert text.count("| 1.00 (0.90 to 1.10) | 5 | not seen |") == len(CLAIMS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_claim_runs(tmp_path: Path) -> None:
    """On the excerpts, two seeds: a figure of each strategy and seed."""
    for name, excerpt in (
        (claims.AGENTS, "agent_sessions.csv"),
        (claims.CODE, "azure_llm.csv"),
        (claims.CONVERSATION, "mooncake.jsonl"),
    ):
        (tmp_path / name).write_bytes(gzip.compress((EXCERPTS / excerpt).read_bytes()))
    for claim in CLAIMS:
        worse, better = claim.check(Lab(tmp_path, 2))
        assert len(worse) == len(better) == 2, claim.key
        assert min(*worse, *better) > 0.0, claim.key
