"""Streams go on while their workers, Redis and the balancer fail: `make chaos-streams`, small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos_streams.kinds import KINDS
from bench.chaos_streams.streams import Streams
from tests.support.chaos import holds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.timeout(180)  # 25 s on two idle cores
async def test_streams_are_whole_while_workers_redis_and_the_balancer_fail(tmp_path: Path) -> None:
    report = await holds(
        Streams(
            clients=12,
            processes=1,
            seconds=8.0,
            seed=7,
            words=40,
            token_interval=0.1,
            phases=("storm",),
            faults={"kill": 2.0, "stop": 4.0, "redis": 3.0, "reload": 2.0, "upgrade": 4.0},
            judges_gaps=False,
        ),
        tmp_path,
    )
    for kind in KINDS:
        assert report.count(f"storm: {kind}: streams whole") >= 4
    for fault in ("workers killed", "Redis killed and restarted", "streams taken over"):
        assert report.count(f"storm: {fault}") > 0
