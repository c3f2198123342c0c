"""The lag of the supervisor's loop, which runs checks and the admin listener."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hermes_lb.testing import PATIENCE
from tests.support.balancer_process import run
from tests.support.waiting import turns
from tests.workers.test_admin_listener import admin_port, write
from tests.workers.test_replacement import metrics_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage


@pytest.mark.slow
async def test_it_is_measured_beside_those_of_the_workers(stage: Stage, tmp_path: Path) -> None:
    async with run(write(tmp_path, stage.nobody(), workers=2)) as running:
        port = await admin_port(running)
        wanted = {"0", "1", "supervisor"}
        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(measured, port) != wanted:
                await turns()


def measured(port: int) -> set[str]:
    """Processes with at least one measurement."""
    begin = 'hermes_lb_loop_lag_seconds_count{process="'
    samples = (
        line.removeprefix(begin).split('"} ')
        for line in metrics_of(port).splitlines()
        if line.startswith(begin)
    )
    return {process for process, count in samples if int(count) > 0}
