"""Streams go on while their workers, Redis and the balancer fail: `make chaos-streams`, small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.chaos_streams.streams import Streams
from tests.faults.support import holds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(180)  # 25 s on two idle cores
async def test_streams_are_whole_while_workers_redis_and_the_balancer_fail(tmp_path: Path) -> None:
    report = await holds(
        Streams(
            clients=10,
            processes=1,
            seconds=8.0,
            seed=7,
            words=40,
            token_interval=0.1,
            kinds=("sessions",),
            phases=("storm",),
            faults={"kill": 4.0, "redis": 3.0, "reload": 2.0, "upgrade": 4.0},
            judges_gaps=False,
        ),
        tmp_path,
    )
    assert report.count("storm: sessions: streams whole") >= 10
    for fault in ("workers killed", "Redis killed and restarted", "streams taken over"):
        assert report.count(f"storm: {fault}") > 0
