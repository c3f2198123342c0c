"""The entries of a session table in memory: keys that were learnt from responses. Pure.

A server that creates a session's id decides where the session lives, which no hash can find. So the
id is stored when a response first names it (HAProxy: `stick store-response`).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


def pin_id(key: bytes) -> str:
    """What operators and stores see of a key, which may be as good as a password: 32 digits."""
    return blake2b(key, digest_size=16).hexdigest()


class _Entry(NamedTuple):
    name: str
    until: float
    as_of: float
    is_announced: bool


class MemoryStore:
    """Key -> the server's name, for `expire` seconds from the last use; the least recently used
    entries are dropped first."""

    def __init__(self, most: int, expire: float) -> None:
        self._most = most
        self._expire = expire
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self)} of {self._most}>"

    def items(self) -> Iterator[tuple[bytes, str]]:
        """All keys and their servers' names, the least recently used first."""
        return ((key, entry.name) for key, entry in self._entries.items())

    def take_over(self, other: MemoryStore) -> None:
        """Add the entries of `other`, the newest ones if there is no room for all, with this
        table's `expire`."""
        for key, entry in other._entries.items():
            self._put(key, entry._replace(as_of=-inf), entry.until - other._expire)

    def clear(self, name: str | None, pin: str | None) -> int:
        """Forget the entries of this server, and with this id (None: any) -> their number."""
        doomed = [
            key
            for key, entry in self._entries.items()
            if name in (None, entry.name) and (pin is None or pin == pin_id(key))
        ]
        for key in doomed:
            del self._entries[key]
        return len(doomed)

    def forget(self, key: bytes, as_of: float) -> None:
        """Forget an entry, unless it was stored later than that."""
        if key in self._entries and self.as_of(key) <= as_of:
            del self._entries[key]

    def find(self, key: bytes, now: float) -> str | None:
        """The name, if the key is known; it counts as a use."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found.until <= now:
            del self._entries[key]
            return None
        self._put(key, found, now)
        return found.name

    def as_of(self, key: bytes) -> float:
        """When the entry was stored, whatever its last use; -inf: never, or by another table."""
        found = self._entries.get(key)
        return found.as_of if found is not None else -inf

    def store(self, key: bytes, name: str, now: float) -> None:
        self._put(key, _Entry(name, now, now, is_announced=True), now)

    def is_announced(self, key: bytes) -> bool:
        """False if the shared store does not have the entry."""
        found = self._entries.get(key)
        return found is None or found.is_announced

    def not_announced(self, key: bytes, name: str) -> None:
        """The shared store does not have this entry, if it is still the current one."""
        found = self._entries.get(key)
        if found is not None and found.name == name:
            self._entries[key] = found._replace(is_announced=False)

    def _put(self, key: bytes, entry: _Entry, now: float) -> None:
        entries = self._entries
        entries[key] = entry._replace(until=now + self._expire)
        entries.move_to_end(key)
        # The first is the least recently used one, which also expires first.
        while len(entries) > self._most or next(iter(entries.values())).until <= now:
            entries.popitem(last=False)
