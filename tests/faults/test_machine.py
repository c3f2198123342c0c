"""The machine runs out of descriptors, or its clock is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos.scenarios.descriptors import (
    KEPT_FROM_IT,
    LOW_AT_START,
    LOWERED,
    LOWERED_WHILE_FULL,
    Descriptors,
)
from bench.chaos.scenarios.wall_clock import WallClock
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.row(34)
@pytest.mark.timeout(180)  # 4 s where it passes; a balancer that floods its log is slow to fail
@pytest.mark.parametrize("way", [LOW_AT_START, LOWERED, LOWERED_WHILE_FULL, KEPT_FROM_IT])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_running_out_of_descriptors_is_survived(tmp_path: Path, loop: str, way: str) -> None:
    await holds(Descriptors(seconds=1.0, loops=(loop,), ways=(way,)), tmp_path)


@pytest.mark.row(35)
async def test_nothing_happens_when_the_wall_clock_is_set(tmp_path: Path) -> None:
    report = await holds(WallClock(clients=4, streams=3, seconds=0.7), tmp_path)
    assert report.figures["the clock was moved, hours"] == "+0, +1, -1"
