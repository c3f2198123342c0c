"""The time of day, from the data path's clock, which is monotonic."""

from __future__ import annotations

import time

from hermes_lb.http import date_field


class WallClock:
    """`now` is in monotonic seconds.

    `offset`: added to `now`, seconds since 1970; the sweep keeps it right when the time is set.
    """

    __slots__ = ("_date", "_date_of", "offset")

    def __init__(self, now: float) -> None:
        self.set(now)
        self._date = b""
        self._date_of = -1  # the second that it is of

    def set(self, now: float) -> None:
        """Update the offset."""
        self.offset = time.time() - now

    def seconds_since_1970(self, now: float) -> int:
        """By the clock that is set, to a second or so."""
        return int(now + self.offset)

    def date(self, now: float) -> bytes:
        """The Date field of a response that gets its head `now`, with its CRLF."""
        second = int(now + self.offset)
        if second != self._date_of:
            self._date, self._date_of = date_field(second), second
        return self._date
