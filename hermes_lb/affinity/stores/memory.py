"""Which server a session was seen on: keys that were learnt from responses. Pure.

A server that mints a session's id decides where the session lives; no hash can find that. So the
id is pinned when it is first seen in a response (HAProxy: `stick store-response`).
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Pin(NamedTuple):
    name: str
    until: float
    as_of: float
    is_told: bool


class Pins:
    """Key -> the server's name, for `expire` seconds from the last use; the oldest go first."""

    def __init__(self, most: int, expire: float) -> None:
        self._most = most
        self._expire = expire
        self._pins: OrderedDict[bytes, _Pin] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pins)

    def __repr__(self) -> str:
        return f"<Pins: {len(self)} of {self._most}>"

    def items(self) -> Iterator[tuple[bytes, str]]:
        """All keys and their servers' names, the least lately used first."""
        return ((key, pin.name) for key, pin in self._pins.items())

    def take_over(self, other: Pins) -> None:
        """All that `other` knows, the newest if there is not room for all; by our own expiry."""
        for key, pin in other._pins.items():
            self._put(key, pin._replace(as_of=-inf), pin.until - other._expire)

    def find(self, key: bytes, now: float) -> str | None:
        """The name, if the key is known; that counts as use."""
        found = self._pins.get(key)
        if found is None:
            return None
        if found.until <= now:
            del self._pins[key]
            return None
        self._put(key, found, now)
        return found.name

    def as_of(self, key: bytes) -> float:
        """When it was pinned, of which its uses tell nothing; -inf: never, or by another table."""
        found = self._pins.get(key)
        return found.as_of if found is not None else -inf

    def pin(self, key: bytes, name: str, now: float) -> None:
        self._put(key, _Pin(name, now, now, is_told=True), now)

    def is_told(self, key: bytes) -> bool:
        """False if those whom it concerns could not be told of it."""
        found = self._pins.get(key)
        return found is None or found.is_told

    def not_told(self, key: bytes, name: str) -> None:
        """Nobody else knows of this pin, if it is still the one that there is."""
        found = self._pins.get(key)
        if found is not None and found.name == name:
            self._pins[key] = found._replace(is_told=False)

    def _put(self, key: bytes, pin: _Pin, now: float) -> None:
        pins = self._pins
        pins[key] = pin._replace(until=now + self._expire)
        pins.move_to_end(key)
        # The first is the one that was used least lately: it also runs out first.
        while len(pins) > self._most or next(iter(pins.values())).until <= now:
            pins.popitem(last=False)
