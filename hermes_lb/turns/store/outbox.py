"""The batches of one journal that the store may not have. Pure.

    queue    not acknowledged; the first `_in_flight` of them have been sent
    kept     acknowledged in the last 2 s: a failover may lose them (rule 21)

Numbers make everything repeatable: a batch states the number before its first event, and one that
the store has already is a success. After a lost connection, an error, or a reply that the store has
less than was thought, the replies that are due are awaited, and all is sent again. Events that are
missing then are a gap: the window begins behind it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

# Acknowledged batches are kept for this time, in seconds, and up to this size.
_KEPT_FOR: Final = 2.0
_KEPT_SIZE: Final = 256 * 1024


#: (before, last, data): events `before + 1` to `last`. Without data, the window begins behind
#: `last`. No named tuple: there is one for each token, and it would cost 0.2 us.
OutBatch: TypeAlias = tuple[int, int, bytes]


class Outbox:
    """`has_failover`: acknowledged batches are kept for a while."""

    __slots__ = ("_due", "_in_flight", "_kept", "_kept_size", "_queue", "_stored", "is_broken")

    def __init__(self, has_failover: bool) -> None:
        self._queue: list[OutBatch] = []
        self._in_flight = 0
        self._due = 0  # replies
        #: They are ignored, and awaited.
        self.is_broken = False
        self._stored = -1  # the last event that the store has, if it said that it has less
        self._kept: list[tuple[float, OutBatch]] | None = [] if has_failover else None
        self._kept_size = 0

    def __bool__(self) -> bool:
        """Whether a batch is not acknowledged."""
        return bool(self._queue)

    def put(self, before: int, last: int, data: bytes) -> None:
        self._queue.append((before, last, data))

    def give_up(self, last: int) -> None:
        """Keep nothing up to event `last`: the window begins behind it."""
        del self._queue[self._in_flight :]
        self.put(last, last, b"")
        self._forget_kept()

    def clear(self) -> None:
        self._queue.clear()
        self._forget_kept()
        self._in_flight = 0
        self.is_broken = True

    def unsent(self) -> list[OutBatch]:
        """They are in flight after this, until `acknowledged`, `failed` or `behind` for each."""
        if self.is_broken:
            if self._due:
                return []
            self.is_broken = False
        queue, in_flight = self._queue, self._in_flight
        unsent = queue[in_flight:] if in_flight else queue.copy()
        self._in_flight = len(queue)
        self._due += len(unsent)
        return unsent

    def send(self, batch: OutBatch) -> list[OutBatch]:
        """`put`, then `unsent`: there is one for each token."""
        queue = self._queue
        is_next = self._in_flight == len(queue) and not self.is_broken
        queue.append(batch)
        if not is_next:
            return self.unsent()
        self._in_flight += 1
        self._due += 1
        return [batch]

    # Replies, in the order of sending. Each returns True when all has to be sent again.

    def acknowledged(self, now: float) -> OutBatch | None:
        """A batch that the store has; None after `clear`. Behind a failure it may be an earlier one
        than the reply's: the store has that too, or has dropped it."""
        self._due -= 1
        if not self._in_flight:
            return None
        self._in_flight -= 1
        batch = self._queue.pop(0)
        if self._kept is not None:
            self._kept.append((now, batch))
            self._kept_size += len(batch[2])
            self.tidy(now)
        return batch

    def failed(self) -> None:
        """The batch may be there, or not."""
        self._due -= 1
        self.is_broken = True

    def behind(self, stored: int) -> None:
        """The store's last event is `stored`, and the batch does not follow it."""
        if not self.is_broken:
            self._stored = stored
        self.failed()

    @property
    def is_to_repeat(self) -> bool:
        """All replies behind a failure have come: call `repeat`, then send `unsent`."""
        return self.is_broken and not self._due

    def repeat(self, last: int) -> None:
        """Begin again with what is not acknowledged, or behind what the store has. `last`: of all
        events that were put."""
        self._in_flight = 0
        stored, self._stored = self._stored, -1
        for index in range(len(self._queue) - 1, 0, -1):
            if not self._queue[index][2]:  # nothing before it is wanted
                del self._queue[:index]
                break
        if stored >= 0:
            self._mend(stored, last)

    def lose_behind(self, stored: int, last: int) -> None:
        """The store has less than it has acknowledged; nothing is in flight."""
        self._stored = stored
        self.repeat(last)

    def _mend(self, stored: int, last: int) -> None:
        self._queue[:0] = [batch for _, batch in self._kept or () if batch[1] > stored]
        self._forget_kept()
        for before, first_last, data in self._queue:
            if first_last <= stored:
                continue
            if data and before != stored:
                # A batch that the store has a part of can't be cut: it is dropped too.
                missing = before if before > stored else first_last
                self._queue.insert(0, (missing, missing, b""))
            return
        if last > stored:
            self.put(last, last, b"")

    def tidy(self, now: float) -> None:
        """Forget what no failover can lose."""
        kept = self._kept
        while kept and (kept[0][0] < now - _KEPT_FOR or self._kept_size > _KEPT_SIZE):
            self._kept_size -= len(kept.pop(0)[1][2])

    def _forget_kept(self) -> None:
        if self._kept:
            self._kept.clear()
            self._kept_size = 0
