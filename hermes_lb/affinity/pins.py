"""Which server a session was seen on: keys that were learnt from responses. Pure.

A server that mints a session's id decides where the session lives; no hash can find that. So the
id is pinned when it is first seen in a response (HAProxy: `stick store-response`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pins:
    """Key -> the server's name, for `expire` seconds from the last use; the oldest go first."""

    def __init__(self, most: int, expire: float) -> None:
        self._most = most
        self._expire = expire
        self._pins: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pins)

    def __repr__(self) -> str:
        return f"<Pins: {len(self)} of {self._most}>"

    def items(self) -> Iterator[tuple[bytes, str]]:
        """All keys and their servers' names, the least lately used first."""
        return ((key, name) for key, (name, _) in self._pins.items())

    def take_over(self, other: Pins) -> None:
        """All that `other` knows, the newest if there is not room for all; by our own expiry."""
        for key, (name, until) in other._pins.items():
            self.pin(key, name, until - other._expire)

    def find(self, key: bytes, now: float) -> str | None:
        """The name, if the key is known; that counts as use."""
        found = self._pins.get(key)
        if found is None:
            return None
        name, until = found
        if until <= now:
            del self._pins[key]
            return None
        self.pin(key, name, now)
        return name

    def pin(self, key: bytes, name: str, now: float) -> None:
        pins = self._pins
        pins[key] = name, now + self._expire
        pins.move_to_end(key)
        # The first is the one that was used least lately: it also runs out first.
        while len(pins) > self._most or next(iter(pins.values()))[1] <= now:
            pins.popitem(last=False)
