"""Batches of several journals as one command: append.lua.

A batch costs 0.2 us to pack, since all of it that never changes is packed once; with a command for
each batch, and `hiredis.pack_command`, it cost 1.8.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.store.scripts import script

if TYPE_CHECKING:
    from hermes_lb.turns.store.journal import StoredJournal
    from hermes_lb.turns.store.outbox import OutBatch

APPEND: Final = script("append")

# Batches of one command, and bytes after which it gets no more. The store does nothing else while
# it executes one: less than a millisecond.
_MOST_BATCHES: Final = 64
_MOST_BYTES: Final = 256 * 1024
# Bytes that each batch takes of a command's room beside its own, so that it has no more of them.
_ROOM_OF_A_BATCH: Final = _MOST_BYTES // _MOST_BATCHES
# Bytes of a batch, except one of a single event: a follower reads whole batches. Of a small window
# it is an eighth.
_BATCH: Final = 64 * 1024
# A journal that is not written lives for this longer than its turn is kept, in seconds: an outage
# of the store must not end it.
_LIVE: Final = 600.0

_HEAD: Final = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n"
# Nonce, before, last, data. The numbers have a fixed length, so that it need not be formatted.
_BATCH_FORMAT: Final = b"%b$15\r\n%015d\r\n$15\r\n%015d\r\n$%d\r\n%b\r\n"


class Terms:
    """What journals of equal routes have in common: sizes in bytes, times in seconds."""

    __slots__ = ("arguments", "batch_size", "lives", "packed", "ttl_ms")

    def __init__(self, size: int, keep: float, keep_events: float, publish: str) -> None:
        self.batch_size = min(_BATCH, size // 8)
        self.ttl_ms = int((keep + _LIVE) * 1000)
        #: After the end, in ms: of any body, and of an event stream.
        self.lives = int(keep * 1000), int(min(keep, keep_events) * 1000)
        #: The first ones of the script, for both.
        self.arguments = [(size, self.ttl_ms, publish, life) for life in self.lives]
        self.packed = [b"".join([packed(each) for each in row]) for row in self.arguments]


#: One for equal values: a command has the journals of one.
terms_of = lru_cache(maxsize=64)(Terms)


class AppendCommand:
    """`add` batches while it has `room`, then `pack` it."""

    __slots__ = ("_arguments", "_keys", "journals", "room")

    def __init__(self, packed_terms: bytes) -> None:
        self._keys: list[bytes] = []
        self._arguments = [packed_terms]
        self.journals: list[StoredJournal] = []  # of each batch
        self.room = _MOST_BYTES

    def add(self, journal: StoredJournal, batch: OutBatch) -> None:
        before, last, data = batch
        size = len(data)
        self._keys.append(journal.packed_keys)
        self._arguments.append(_BATCH_FORMAT % (journal.packed_nonce, before, last, size, data))
        self.journals.append(journal)
        self.room -= size + _ROOM_OF_A_BATCH

    def pack(self) -> bytes:
        batches = len(self.journals)
        head = _HEAD % (3 + 4 + 6 * batches, APPEND.sha.encode())
        return b"".join((head, packed(2 * batches), *self._keys, *self._arguments))


def packed(argument: str | bytes | int) -> bytes:
    """As RESP has it."""
    data = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
