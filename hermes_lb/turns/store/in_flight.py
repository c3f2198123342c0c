"""The operations of a process that are under way at the store.

A burst of turns would send thousands of scripts at once, and those at the end would not be answered
within their patience: a store that is busy would look like one that is away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

# A server executes some 10,000 scripts a second, so the last of these has its reply after 25 ms.
_MOST: Final = 256


class InFlight:
    """`await enter()`, then `leave()`. The others wait in order.

    Operations that are new work wait behind all others: turns that have begun go on, and a burst of
    beginnings delays no beat, and no end.
    """

    __slots__ = ("_free", "_new", "_others")

    def __init__(self, most: int = _MOST) -> None:
        self._free = most
        self._new: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Some of these may have been given up."""
        return len(self._new) + len(self._others)

    async def enter(self, patience: float, *, is_new: bool) -> None:
        """Raises TimeoutError after `patience` seconds."""
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        (self._new if is_new else self._others).append(place)
        try:
            async with asyncio.timeout(patience):
                await place
        except BaseException:
            if place.done() and not place.cancelled():  # it was let in meanwhile
                self.leave()
            raise

    def leave(self) -> None:
        for line in (self._others, self._new):
            while line:
                place = line.popleft()
                if not place.done():
                    place.set_result(None)
                    return
        self._free += 1
