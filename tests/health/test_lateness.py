"""The loop is measured while a check runs; between checks nothing wakes the process."""

from __future__ import annotations

import asyncio
import time

from hermes_lb.health.lateness import Lateness


def block(seconds: float) -> None:
    time.sleep(seconds)


async def test_the_last_check_that_ends_stops_the_measurement() -> None:
    loop, late = asyncio.get_running_loop(), Lateness()
    async with late.timeout(5.0):
        async with late.timeout(5.0):
            pass
        block(0.2)
        assert 0.1 < late.lost(loop.time()) < 5.0
    lost = late.lost(loop.time())
    assert lost > 0.1
    block(0.2)
    assert late.lost(loop.time()) == lost
    assert late._timer is None
    async with late.timeout(5.0):
        block(0.2)
        assert late.lost(loop.time()) > lost + 0.1
