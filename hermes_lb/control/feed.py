"""The live stream for dashboards: one event a second, serialised once for all listeners.

The first event of a listener has all servers, the others only those that differ from the one
before. A listener that is slow skips some events, delays no other, and gets all servers again.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from hermes_lb.control.views import news

if TYPE_CHECKING:
    from hermes_lb.control.shapes import Moment


class Feed:
    """Holds only the newest moment."""

    def __init__(self) -> None:
        self.listeners = 0
        self.number = 0  # events so far
        self._moment: Moment | None = None
        self._whole: bytes | None = None  # made when the first listener needs it
        self._changed = b""
        self._is_closed = False
        self._news = asyncio.Event()

    def publish(self, moment: Moment) -> None:
        """Send it to all listeners."""
        self._changed = _text(news(self._moment, moment))
        self._moment, self._whole = moment, None
        self.number += 1
        self._notify()

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def whole(self) -> tuple[int, bytes]:
        """The newest event, with all servers; and its number."""
        assert self._moment is not None, "nothing was published"
        if self._whole is None:
            self._whole = _text(self._moment)
        return self.number, self._whole

    async def next(self, seen: int) -> tuple[int, bytes] | None:
        """The next event after number `seen`, with its number; None at the end of the stream."""
        while self.number <= seen and not self._is_closed:
            await self._news.wait()
        if self._is_closed:
            return None
        return (self.number, self._changed) if self.number == seen + 1 else self.whole()


def _text(moment: Moment) -> bytes:
    return json.dumps(moment, separators=(",", ":")).encode()
