"""Caches of results, by the bytes that they were computed from."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(dict[Key, Value]):
    """A dict that stays small although clients and servers choose its keys.

    It is cleared when it is full: cheaper than an order of use, and rare in normal traffic.
    """

    def __init__(self, *, most: int, longest: int) -> None:
        """At most `most` entries, none of them for a key of more than `longest` bytes."""
        super().__init__()
        self._most = most
        self._longest = longest

    def remember(self, key: Key, size: int, value: Value) -> Value:
        """Store `value` for `key`, of `size` bytes, unless that is too long. Returns `value`."""
        if size <= self._longest:
            if len(self) >= self._most:
                self.clear()
            self[key] = value
        return value


class SizedCache(BoundedCache[Key, Value]):
    """With a bound on the bytes of all keys: `most * longest` would be too many."""

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
