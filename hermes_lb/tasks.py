"""The only place where the balancer starts tasks.

`asyncio.create_task` alone keeps no reference (the task may be garbage-collected while it runs) and
reports no failure. The linter bans it everywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from random import Random

logger = logging.getLogger("hermes_lb")

# Of an interval, either way.
_JITTER = 0.1
# Tasks at once that count as a burst.
_BURST = 256


def jittered(interval: float, rng: Random) -> float:
    """An interval, in seconds, give or take a tenth: what many balancers do periodically must not
    synchronise."""
    return interval * rng.uniform(1 - _JITTER, 1 + _JITTER)


class Tasks:
    """A group of background tasks that is ended together.

    Each owner (a balancer, a health checker) has its own group, so that two balancers in one
    process end independently and leave nothing behind.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._most = 0  # of them at once, since `_running` was made

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `work` in the background; an exception that escapes it is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        self._most = max(self._most, len(self._running))
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if self._most > _BURST and len(self._running) < self._most // 8:
            # A set keeps the room of a burst: 87 bytes for each task.
            self._running = set(self._running)
            self._most = len(self._running)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task %s failed: %r", task.get_name(), error)

    async def cancel_all(self) -> None:
        """Cancel all and wait until they have ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
