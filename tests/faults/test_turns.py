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
    for text in INVARIANTS.values():
        assert report.count(f"storm: tested: {text}") > 0
    for fault in ("workers killed", "balancers killed", "stores killed and restarted"):
        assert report.count(f"storm: {fault}") > 0


@pytest.mark.timeout(240)
async def test_without_faults_no_outcome_is_unknown(tmp_path: Path) -> None:
    report = await holds(Turns(clients=20, seconds=6.0, seed=3, phases=("calm",)), tmp_path)
    assert report.count("calm: ends: done") > 20
    assert report.count("calm: streams resumed") > 10
    assert report.count("calm: replays") > 10
