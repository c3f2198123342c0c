"""What has been worked out before, for bytes that come again."""

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(dict[Key, Value]):
    """A dict that stays small although strangers choose its keys.

    When it is full it starts anew: cheaper than keeping an order, and rare in honest traffic.
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
