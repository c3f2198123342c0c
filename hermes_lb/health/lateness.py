"""The lateness of the event loop: a callback blocked it, or the machine did not run it.

A response that arrived in time and was read late says nothing about the server. So time that the
loop was late does not count towards a check's timeout.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Seconds between two measurements.
_EVERY = 0.05


class Lateness:
    """The sum of the delays of a timer of the running loop, which runs while a `timeout` does.

    Between the checks nothing asks for it, and each measurement wakes the process.
    """

    def __init__(self) -> None:
        self._lost = 0.0
        self._due = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._timeouts = 0

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timeouts += 1
        if self._timer is None:
            self._wait(loop)

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timeouts -= 1
        if not self._timeouts and self._timer is not None:
            self._lost = self.lost(loop.time())
            self._due = float("inf")
            self._timer.cancel()
            self._timer = None

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _EVERY
        self._timer = loop.call_later(_EVERY, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lost = self.lost(loop.time())
        self._wait(loop)

    def lost(self, now: float) -> float:
        """Seconds of lateness so far; `now` is the loop's time. Only differences have a meaning."""
        return self._lost + max(0.0, now - self._due)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """`asyncio.timeout` without the loop's lateness. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        self._start(loop)
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
            self._stop(loop)
