"""Event loop lag: how long a stream waits while something else blocks the loop."""

from __future__ import annotations

import asyncio

from hermes_lb.backends.histogram import Histogram

# Seconds between two measurements; shorter blocks may be missed. 50 a second cost 0.03 % of a core.
EVERY = 0.02

# Seconds.
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class LoopLag:
    """A timer that notes how late it fires, after each `every` seconds.

    `worst` is in seconds, since the start. uvloop's timers have whole milliseconds.
    """

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self.histogram = Histogram(LAG_BOUNDS)
        self.worst = 0.0
        self._due = 0.0
        self._timer: asyncio.Handle | None = None

    def start(self) -> None:
        """Measure the running loop from its next iteration on until `stop`.

        uvloop's clock stands still within an iteration: what the caller has done in this one would
        count.
        """
        loop = asyncio.get_running_loop()
        self._timer = loop.call_soon(self._begin, loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + self._every
        self._timer = loop.call_later(self._every, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        lag = max(0.0, loop.time() - self._due)
        self.histogram.observe(lag)
        self.worst = max(self.worst, lag)
        self._begin(loop)
