"""One timer for thousands of paced streams.

Every member is called once a period, and members are spread evenly over the period in slots of
1 ms (libuv's own granularity). So 300 streams at 40 tokens/s are 12 tokens each millisecond,
each on another connection: a proxy relays them one by one and cannot merge two of one stream.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_SLOT = 0.001  # s


class Pacer:
    """Calls each member `rate` times a second, until the member is removed.

    A member is the bound method to call. When the loop is late by more than a period, the missed
    calls are dropped, not made up for: the delivered rate, which the client counts, tells.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        self._loop = loop
        self._slots: list[dict[Callable[[], None], None]] = [
            {} for _ in range(max(1, round(1 / rate / _SLOT)))
        ]
        # Consecutive members land far apart, and n members fill the slots as evenly as can be.
        self._stride = _coprime_near(round(0.618 * len(self._slots)), len(self._slots))
        self._next_slot = 0
        self._where: dict[Callable[[], None], int] = {}
        self._start = 0.0
        self._done = 0  # slots served since the start
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Callable[[], None]) -> None:
        self._where[member] = self._next_slot
        self._slots[self._next_slot][member] = None
        self._next_slot = (self._next_slot + self._stride) % len(self._slots)
        if self._timer is None:
            self._start, self._done = self._loop.time(), 0
            self._timer = self._loop.call_later(_SLOT, self._tick)

    def discard(self, member: Callable[[], None]) -> None:
        slot = self._where.pop(member, None)
        if slot is not None:
            del self._slots[slot][member]

    def _tick(self) -> None:
        due = int((self._loop.time() - self._start) / _SLOT)
        count = len(self._slots)
        self._done = max(self._done, due - count)
        while self._done < due:
            for member in list(self._slots[self._done % count]):
                member()
            self._done += 1
        self._timer = self._loop.call_later(_SLOT, self._tick) if self._where else None


def _coprime_near(wanted: int, count: int) -> int:
    return next(n for n in range(max(1, wanted), 2 * count + 2) if gcd(n, count) == 1)
