"""Turns at two balancers while everything fails: `make chaos-turns`, small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos_turns.turns import Turns
from bench.chaos_turns.verdict import INVARIANTS
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.timeout(240)
async def test_turns_are_executed_once_and_heard_whole_while_everything_fails(
    tmp_path: Path,
) -> None:
    faults = {"kill": 3.0, "down": 7.0, "stop": 5.0, "store": 5.0, "reload": 4.0}
    scenario = Turns(clients=20, seconds=10.0, seed=3, phases=("storm",), faults=faults)
    report = await holds(scenario, tmp_path)
    for name, text in INVARIANTS.items():
        # A turn whose head could not be stored is lost with its balancer, and one whose end could
        # not be is no evidence: these two have tests of their own.
        assert report.count(f"storm: tested: {text}") > 0 or name in ("continued", "leaving")
    for fault in ("workers killed", "balancers killed", "stores killed and restarted"):
        assert report.count(f"storm: {fault}") > 0


@pytest.mark.timeout(240)
async def test_a_turn_that_its_backend_can_continue_outlives_its_balancers(tmp_path: Path) -> None:
    scenario = Turns(
        clients=12, seconds=8.0, seed=3, phases=("kills",), kinds=("continued",),
        faults={"kill": 2.0, "down": 5.0},
    )  # fmt: skip
    report = await holds(scenario, tmp_path)
    assert report.count(f"kills: tested: {INVARIANTS['continued']}") > 5
    assert report.count("kills: workers killed") > 0


@pytest.mark.timeout(240)
async def test_a_turn_ends_with_its_last_client_where_leaving_cancels(tmp_path: Path) -> None:
    scenario = Turns(clients=12, seconds=8.0, seed=3, phases=("calm",), kinds=("leaving",))
    report = await holds(scenario, tmp_path)
    assert report.count(f"calm: tested: {INVARIANTS['leaving']}") > 0


@pytest.mark.timeout(240)
async def test_without_faults_no_outcome_is_unknown(tmp_path: Path) -> None:
    report = await holds(Turns(clients=20, seconds=6.0, seed=3, phases=("calm",)), tmp_path)
    assert report.count("calm: ends: done") > 20
    assert report.count("calm: streams resumed") > 10
    assert report.count("calm: replays") > 10
