"""Time that the event loop has lost: something kept it, or the machine did not let it run.

An answer that came in time and was read too late says nothing of the server. So a check's time is
the loop's own: what the loop has lost meanwhile does not count.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Seconds between two looks: 0.02 % of a core.
_EVERY = 0.05


class Lateness:
    """Adds up how late a timer of the running loop fires, from `start` to `stop`."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._due = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Idempotent."""
        if self._timer is None:
            self._wait(asyncio.get_running_loop())

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._due = float("inf")

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _EVERY
        self._timer = loop.call_later(_EVERY, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lost = self.lost(loop.time())
        self._wait(loop)

    def lost(self, now: float) -> float:
        """Seconds so far; `now` is the loop's time. Only differences mean something."""
        return self._lost + max(0.0, now - self._due)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """`asyncio.timeout`, in the loop's own time. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle
        ends = loop.time() + seconds - self.lost(loop.time())

        def look() -> None:
            nonlocal timer
            now = loop.time()
            left = ends + self.lost(now) - now
            if left > 0:
                timer = loop.call_later(left, look)
            else:
                limit.reschedule(now)

        timer = loop.call_later(seconds, look)
        try:
            async with asyncio.timeout(None) as limit:
                yield
        finally:
            timer.cancel()
