"""A cache of results for keys that recur, whatever else clients and servers send between them."""

from __future__ import annotations

from array import array
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

_SLOTS = 1024  # of the filter, a power of 2; about as many as there are keys that are stored

# After this number of look-ups without a hit only one of `_EVERY` is worth its time.
PATIENCE: Final = 32
_EVERY: Final = 8


class RecurringCache(Generic[Value]):
    """Two dicts, the recent generation and the one before it, and a filter before them.

    A key is to be stored the second time that it comes (`recurs`), so keys that never recur
    displace nothing (the doorkeeper of TinyLFU, Einziger et al., 2017). When the recent generation
    is full, it becomes the old one, and what was not used since the last time is dropped: an order
    of use at the price of two look-ups. The filter compares whole hashes, which are keyed by a
    secret of the process: no client can choose keys that collide.

    Callers on the hot path look into `recent` themselves, and set `misses` to 0 if that has the
    key; if not, they call `find`.
    """

    __slots__ = ("_filter", "_most", "_old", "_room", "_size", "misses", "recent")

    def __init__(self, *, most: int, room: int) -> None:
        """`most`: entries, and `room`: bytes of all keys, of one generation."""
        self.recent: dict[bytes, Value] = {}
        self.misses = 0  # look-ups since the last hit
        self._old: dict[bytes, Value] = {}
        self._most = most
        self._room = room
        self._size = 0  # bytes of the recent keys
        self._filter = array("q", bytes(8 * _SLOTS))

    def __len__(self) -> int:
        return len(self.recent) + len(self._old)

    def find(self, key: bytes) -> Value | None:
        """The value of a key that is not in `recent`; an old one becomes recent."""
        value = self._old.get(key)
        if value is None:
            self.misses += 1
        else:
            self.misses = 0
            self.store(key, value)
        return value

    def is_skipped(self) -> bool:
        """To be asked if `misses` is above `PATIENCE`. True: this look-up is to be left out.

        Keys that never recur then cost next to nothing, and one of `_EVERY` finds out when that
        changes.
        """
        self.misses += 1
        return self.misses % _EVERY != 0

    def recurs(self, key: bytes) -> bool:
        """True if this was asked before, not long ago."""
        number = hash(key)
        slot = number & (_SLOTS - 1)
        if self._filter[slot] == number:
            return True
        self._filter[slot] = number
        return False

    def store(self, key: bytes, value: Value) -> None:
        """Store what `recurs`."""
        if len(self.recent) >= self._most or self._size + len(key) > self._room:
            self._old, self.recent = self.recent, {}
            self._size = 0
        self.recent[key] = value
        self._size += len(key)
