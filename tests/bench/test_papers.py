"""The check of papers' claims: verdicts, the page, and that each claim can run."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from bench.papers import claims
from bench.papers.claims import CLAIMS
from bench.papers.kept import Kept, read, state_of
from bench.papers.lab import Lab, Pair
from bench.papers.page import KEPT, PAGE, page
from bench.papers.verdict import CONFIRMED, NOT_SEEN, OPPOSITE, PARTLY, verdict
from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.intervals import Ratio
from hermes_lb.lab.traffic import Setup
from tests.lab.test_traces import EXCERPTS


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
    text = page([(claim, [Pair(2.0, 1.0), Pair(1.0, 2.0)]) for claim in CLAIMS])
    for claim in CLAIMS:
        assert {claim.strategy, claim.baseline} <= set(STRATEGIES)
        assert f"| `{claim.strategy}`, `{claim.baseline}` | {claim.says} ({claim.source})" in text
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    assert len(re.findall(r"\| 1\.00 \(.* to .*\) \| not seen \|", text)) == len(CLAIMS)
    assert "2 seeds" in text


def test_the_page_is_of_one_run_of_all_claims() -> None:
    """It is what the results beside it say, and was not edited since."""
    results = read(KEPT)
    assert set(results) == {claim.key for claim in CLAIMS}
    assert {len(pairs) for pairs in results.values()} == {5}
    assert PAGE.read_text() == page([(claim, results[claim.key]) for claim in CLAIMS])


def test_an_interrupted_run_goes_on_with_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "papers.json"
    Kept(path, "now").add("one", 1, Pair(2.0, 3.0))
    again = Kept(path, "now")
    assert again.get("one", 1) == Pair(2.0, 3.0)
    assert again.get("one", 2) is again.get("another", 1) is None
    again.add("one", 2, Pair(4.0, 5.0))
    assert read(path) == {"one": [Pair(2.0, 3.0), Pair(4.0, 5.0)]}
    assert Kept(path, "later").get("one", 1) is None


def test_results_are_of_the_traces_that_they_name(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("one")
    one = state_of([trace])
    assert state_of([trace]) == one
    trace.write_text("two")
    assert state_of([trace]) != one


def test_a_strategy_is_run_once_for_all_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[str, ...]] = []

    def figures(experiment: Experiment, *_: object) -> dict[str, dict[str, float]]:
        played.append(tuple(experiment.strategies))
        return {name: {"latency_mean": float(len(name))} for name in experiment.strategies}

    monkeypatch.setattr(Experiment, "figures", figures)
    lab, setup = Lab(Path()), Setup()
    for other in ("random", "p2c", "random"):
        traffic = lab.scenario("short", setup, 100)
        pair = lab.pair(traffic, setup, "latency_mean", ("leastconn", other), 1)
        assert pair == Pair(9.0, len(other))
    lab.pair(lab.scenario("short", setup, 100), setup, "latency_mean", ("p2c", "random"), 2)
    assert played == [("leastconn", "random"), ("p2c",), ("p2c", "random")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_claim_runs(tmp_path: Path) -> None:
    """On the excerpts: a figure of each strategy."""
    for name, excerpt in (
        (claims.AGENTS, "agent_sessions.csv"),
        (claims.CODE, "azure_llm.csv"),
        (claims.CONVERSATION, "mooncake.jsonl"),
    ):
        (tmp_path / name).write_bytes(gzip.compress((EXCERPTS / excerpt).read_bytes()))
    lab = Lab(tmp_path)
    for claim in CLAIMS:
        assert min(claim.check(lab, 1)) > 0.0, claim.key
