"""The live stream for dashboards: one event a second, serialised once for all listeners."""

from __future__ import annotations

import asyncio


class Feed:
    """Holds only the newest event: a slow listener skips some, and delays no other."""

    def __init__(self) -> None:
        self.listeners = 0
        self._text = b""
        self.number = 0  # events so far
        self._is_closed = False
        self._news = asyncio.Event()

    def publish(self, text: bytes) -> None:
        """Send it to all listeners."""
        self._text = text
        self.number += 1
        self._notify()

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def next(self, seen: int) -> tuple[int, bytes] | None:
        """The next event after number `seen`, with its number; None at the end of the stream."""
        while self.number <= seen and not self._is_closed:
            await self._news.wait()
        return None if self._is_closed else (self.number, self._text)
