"""What has been worked out before, for bytes that come again."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(dict[Key, Value]):
    """A dict that stays small although strangers choose its keys.

    When it is full it is emptied: cheaper than keeping an order, and rare in honest traffic.
    """

    def __init__(self, *, most: int, longest: int) -> None:
        """At most `most` entries, none of them for a key of more than `longest` bytes."""
        super().__init__()
        self._most = most
        self._longest = longest

    def remember(self, key: Key, size: int, value: Value) -> Value:
        """Keep `value` for `key`, of `size` bytes, if it is not too long. Returns `value`."""
        if size <= self._longest:
            if len(self) >= self._most:
                self.clear()
            self[key] = value
        return value


class SizedMemory(Memory[Key, Value]):
    """One whose keys differ much in size: `most * longest` bytes would be too many in all."""

    def __init__(self, *, most: int, longest: int, room: int) -> None:
        """`room`: bytes of all keys."""
        super().__init__(most=most, longest=longest)
        self._room = room
        self._size = 0

    def remember(self, key: Key, size: int, value: Value) -> Value:
        super().remember(key, size, value)
        if size <= self._longest:
            self._size += size
            if self._size > self._room:
                self.clear()
        return value

    def clear(self) -> None:
        super().clear()
        self._size = 0
