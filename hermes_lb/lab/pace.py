"""A machine's speed, as a timeline known from the start.

Speeds change at known times, so a request's end is known when it begins, and the engine never has
to cancel an event.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Pace:
    """Speed 1 at first; then that of each (time, speed), from that time on. 0 is a pause."""

    __slots__ = ("_done", "_speeds", "_starts")

    def __init__(self, changes: Iterable[tuple[float, float]] = ()) -> None:
        self._starts = [0.0]
        self._speeds = [1.0]
        self._done = [0.0]  # seconds of work at speed 1, up to each start
        for at, speed in sorted(changes, key=lambda change: change[0]):
            self._done.append(self._done[-1] + (at - self._starts[-1]) * self._speeds[-1])
            self._starts.append(at)
            self._speeds.append(speed)
        if self._speeds[-1] <= 0.0:
            raise ValueError("a machine that pauses must resume")

    def after(self, now: float, work: float) -> float:
        """When `work`, in seconds at speed 1, is done if it begins now."""
        if len(self._starts) == 1:
            return now + work
        if work <= 0.0:
            return now
        i = bisect_right(self._starts, now) - 1
        speed = self._speeds[i]
        end = now + work / speed if speed else float("inf")
        if i + 1 == len(self._starts) or end <= self._starts[i + 1]:
            return end
        done = self._done[i] + (now - self._starts[i]) * speed + work
        i = bisect_left(self._done, done) - 1
        return self._starts[i] + (done - self._done[i]) / self._speeds[i]
