"""Workers that die and workers that stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos.scenarios.refusals import Refusals
from bench.chaos.scenarios.worker_dies import WorkerDies
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.row(33)
async def test_streams_of_a_dead_worker_are_cut_and_a_stopped_one_is_taken_out(
    tmp_path: Path,
) -> None:
    report = await holds(WorkerDies(streams=5), tmp_path)
    assert report.figures["killed: streams cut visibly"] == 5
    assert report.figures["killed: streams of others that went on"] == 10
    assert report.figures["stopped: 504s"] == 5


@pytest.mark.timeout(120)  # 10 s on two idle cores
async def test_servers_that_refuse_for_a_moment_in_turn_cost_no_answer(tmp_path: Path) -> None:
    report = await holds(Refusals(clients=4, seconds=0.5, after=0.5), tmp_path)
    for backend in ("active checks", "no checks"):
        assert report.figures[f"{backend}: answered 200"] == report.figures[f"{backend}: requests"]
