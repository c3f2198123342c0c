"""What has been worked out before, for bytes that come again."""

from __future__ import annotations

import sys
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(dict[Key, Value]):
    """A dict that stays small although strangers choose its keys: in entries, and in bytes.

    When it is full it is emptied: cheaper than keeping an order, and rare in honest traffic.
    """

    def __init__(self, *, most: int, longest: int, room: int = sys.maxsize) -> None:
        """At most `most` entries, none of them of more than `longest` bytes, and `room` bytes in
        all. Without `room`, `most * longest` is the bound."""
        super().__init__()
        self._most = most
        self._longest = longest
        self._room = room
        self._size = 0

    def remember(self, key: Key, size: int, value: Value) -> Value:
        """Keep `value` for `key`, of `size` bytes, if it is not too long. Returns `value`."""
        if size <= self._longest:
            self._size += size
            if len(self) >= self._most or self._size > self._room:
                self.clear()
                self._size = size
            self[key] = value
        return value
