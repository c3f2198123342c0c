"""A blocked loop is noticed."""

from __future__ import annotations

import asyncio
import time

from hermes_lb.observe.loop_lag import EVERY, LoopLag


async def test_a_block_is_seen_with_its_length() -> None:
    lag = LoopLag()
    lag.start()
    time.sleep(0.1)  # noqa: ASYNC251 - part of the start
    await asyncio.sleep(0)
    assert lag.worst == 0.0
    time.sleep(EVERY + 0.3)  # noqa: ASYNC251 - this is the block
    for _ in range(3):
        await asyncio.sleep(EVERY)
    lag.stop()
    assert lag.worst >= 0.25
    assert sum(lag.histogram.counts) >= 1
    assert lag.histogram.total >= lag.worst
    seen = sum(lag.histogram.counts)
    await asyncio.sleep(3 * EVERY)
    assert sum(lag.histogram.counts) == seen  # stopped
