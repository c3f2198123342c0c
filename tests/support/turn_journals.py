"""Journals in memory, for tests of the control half of the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.turns.ports import Batch, Claim, End, Fenced, Reading, Record, Trimmed
from hermes_lb.turns.states import DONE, ENDED
from hermes_lb.turns.store.journals import Adopted, Journals, Kept, OwnedJournal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hermes_lb.turns.ports import TurnWatcher


class JournalServer:
    """What several `MemoryJournals` share."""

    def __init__(self) -> None:
        self.journals: dict[str, _Entry] = {}


class _Entry:
    def __init__(self) -> None:
        self.nonce = ""
        self.batches: list[Batch] = []
        self.last = 0
        self.end: End | None = None
        self.is_trimmed = False

    def kept(self) -> Kept:
        first = self.batches[0].last - self.batches[0].events + 1 if self.batches else 0
        return Kept(first, self.last, sum(len(batch.data) for batch in self.batches))


class MemoryJournals(Journals):
    def __init__(self, shared: JournalServer) -> None:
        self._shared = shared

    def open(self, turn: str, nonce: str, claim: Claim) -> OwnedJournal:
        entry = self._shared.journals.setdefault(turn, _Entry())
        entry.nonce = nonce
        return _Owned(entry, nonce, claim.journal_size)

    async def fence_off(self, turn: str, nonce: str, after: str = "") -> tuple[str, bool]:
        entry = self._shared.journals.setdefault(turn, _Entry())
        if not after or entry.nonce in ("", after):
            entry.nonce = nonce
        return entry.nonce, entry.end is not None and entry.end.is_clean

    async def adopt(self, turn: str, nonce: str, claim: Claim) -> Adopted:
        entry = self._shared.journals[turn]
        if entry.nonce != nonce or entry.end is not None:
            raise Fenced
        return Adopted(_Owned(entry, nonce, claim.journal_size), entry.last, entry.batches[-32:])

    async def kept(self, turn: str) -> Kept:
        return self._shared.journals[turn].kept()

    def follow(
        self, record: Record, after: int, find: Callable[[], Awaitable[Record | None]]
    ) -> Reading:
        return _Reading(self._shared.journals.setdefault(record.id, _Entry()), after, find)

    async def close(self) -> None:
        pass


class _Owned(OwnedJournal):
    def __init__(self, entry: _Entry, nonce: str, size: int) -> None:
        self.unacknowledged = 0
        self.is_stream = False
        self._entry = entry
        self._nonce = nonce
        self._size = size
        self._watcher: TurnWatcher | None = None

    @property
    def is_trimmed(self) -> bool:  # type: ignore[override]
        return self._entry.is_trimmed

    def append(self, data: bytes, events: int) -> None:
        entry = self._entry
        if entry.nonce != self._nonce:
            self.refuse()
            return
        entry.last += events
        entry.batches.append(Batch(entry.last, events, data))
        while sum(len(batch.data) for batch in entry.batches) > self._size:
            entry.batches.pop(0)
            entry.is_trimmed = True

    def skip(self) -> None:
        self._entry.last += 1
        self._entry.batches.clear()
        self._entry.is_trimmed = True

    def watch(self, watcher: TurnWatcher) -> None:
        self._watcher = watcher

    def refuse(self) -> None:
        if self._watcher is not None:
            self._watcher.turn_refused()

    async def finish(self, end: End) -> Kept:
        entry = self._entry
        if entry.nonce != self._nonce:
            raise Fenced
        entry.end = end
        return entry.kept()

    async def leave(self) -> str:
        if self._entry.nonce != self._nonce:
            raise Fenced
        self._entry.nonce = "left"
        return "left"

    async def notify(self) -> None:
        pass

    async def is_followed(self) -> bool:
        return False


class _Reading(Reading):
    def __init__(
        self, entry: _Entry, after: int, find: Callable[[], Awaitable[Record | None]]
    ) -> None:
        self._entry = entry
        self._after = after
        self._find = find

    async def next(self) -> Sequence[Batch] | End:
        while True:
            record = await self._find()
            if record is None or (record.state == DONE and not record.is_kept and not self._after):
                raise Trimmed
            entry = self._entry
            begins = (
                entry.batches[0].last - entry.batches[0].events if entry.batches else entry.last
            )
            if entry.is_trimmed and self._after < begins:
                raise Trimmed
            batches = [batch for batch in entry.batches if batch.last > self._after]
            if batches:
                self._after = batches[-1].last
                return batches
            if record.state in ENDED:
                return End(record.state == DONE, record.reason)
            await asyncio.sleep(0.005)

    async def head(self) -> Record:
        while True:
            record = await self._find()
            if record is None:
                raise Trimmed
            if record.head or record.state in ENDED:
                return record
            await asyncio.sleep(0.005)

    async def stay(self) -> None:
        pass

    def close(self) -> None:
        pass
