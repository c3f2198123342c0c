"""Background tasks of one owner."""

from __future__ import annotations

import asyncio
import sys

import pytest

from hermes_lb.tasks import Tasks


@pytest.mark.parametrize("also_runs", [0, 1])
async def test_a_burst_leaves_no_memory_behind(also_runs: int) -> None:
    tasks, release = Tasks(), asyncio.Event()
    for_long = [tasks.spawn(asyncio.Event().wait(), name="runs on") for _ in range(also_runs)]
    for _ in range(2):
        burst = [tasks.spawn(release.wait(), name="in the burst") for _ in range(1000)]
        size = sys.getsizeof(tasks._running)
        release.set()
        await asyncio.gather(*burst)
        assert sys.getsizeof(tasks._running) < size / 3
        release.clear()
    await tasks.cancel_all()  # those that run are known as before
    assert all(task.cancelled() for task in for_long)
