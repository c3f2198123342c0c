"""The live stream for dashboards: one text a second, built once for all who listen."""

from __future__ import annotations

import asyncio


class Feed:
    """Holds the newest text only: a slow listener misses some, and delays nobody."""

    def __init__(self) -> None:
        self.listeners = 0
        self._text = b""
        self.number = 0  # of texts so far
        self._is_closed = False
        self._news = asyncio.Event()

    def publish(self, text: bytes) -> None:
        """Give it to all who listen."""
        self._text = text
        self.number += 1
        self._tell()

    def close(self) -> None:
        """All listeners end."""
        self._is_closed = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def next(self, seen: int) -> tuple[int, bytes] | None:
        """The first text after number `seen`, with its number; None: there will be no more."""
        while self.number <= seen and not self._is_closed:
            await self._news.wait()
        return None if self._is_closed else (self.number, self._text)
