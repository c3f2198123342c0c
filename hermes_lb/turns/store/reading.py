"""A follower's place in a journal."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from hermes_lb.turns.ports import End, Reading, Trimmed
from hermes_lb.turns.states import DONE, ENDED, RELEASED
from hermes_lb.turns.store.keys import journal_keys
from hermes_lb.turns.store.scripts import script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hermes_lb.turns.ports import Batch, Record
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.sealing import Sealing
    from hermes_lb.turns.store.shared_work import SharedWork
    from hermes_lb.turns.store.subscriber import Subscriber

_READ: Final = script("read")

# A page ends after this number of bytes or batches. The next one is read when the follower has
# passed this one on, so a slow client holds one page.
_PAGE: Final = 64 * 1024
_ENTRIES: Final = 512
# Seconds between two looks, since notifications get lost (rule 50), and of the lease that each
# renews: without one, nothing is published.
_LOOK: Final = 2.0
_LEASE: Final = 8
# Seconds that a subscription's confirmation is waited for; without it the looks are enough.
_CONFIRMATION: Final = 1.0


class Page(NamedTuple):
    """What a read finds. `begins`: the number behind which the journal's window begins."""

    begins: int
    batches: list[Batch]
    is_full: bool  # there may be more
    end: End | None


class StoredReading(Reading):
    """`find`: the turn's present record, or None."""

    __slots__ = (
        "_after", "_client", "_find", "_is_at_end", "_keys", "_listens", "_sealing", "_shared",
        "_subscriber", "_turn", "_woken",
    )  # fmt: skip

    def __init__(
        self,
        turn: str,
        after: int,
        client: StoreClient,
        subscriber: Subscriber,
        shared: SharedWork[Page],
        sealing: Sealing,
        find: Callable[[], Awaitable[Record | None]],
    ) -> None:
        self._turn = turn
        self._keys = journal_keys(turn)
        self._after = after
        self._client = client
        self._subscriber = subscriber
        self._shared = shared
        self._sealing = sealing
        self._find = find
        self._woken = asyncio.Event()
        self._listens = False
        self._is_at_end = False

    def __repr__(self) -> str:
        return f"<StoredReading {self._keys[1]} behind {self._after}>"

    async def next(self) -> Sequence[Batch] | End:
        # It had ended before the journal was read, which had nothing.
        ended: Record | None = None
        if self._is_at_end:
            await self._wait()
            self._is_at_end = False  # also if the read fails
        while True:
            self._woken.clear()
            found = await self._read()
            if found:
                return found
            if ended is not None:
                return self._end_of(ended)
            if not self._listens:
                self._listens = True
                if await self._subscriber.listen(self._keys[1], self._wake, _CONFIRMATION):
                    continue  # what was appended before may not have been notified
            record = await self._find()
            if record is None:
                raise Trimmed
            if record.state in ENDED:
                ended = record
            else:
                await self._wait()

    async def head(self) -> Record:
        while True:
            self._woken.clear()
            record = await self._find()
            if record is None:
                raise Trimmed
            if record.head or record.state in ENDED:
                return record
            await self.stay()
            if not self._listens:
                self._listens = True
                if await self._subscriber.listen(self._keys[1], self._wake, _CONFIRMATION):
                    continue  # a head that was stored before may not have been notified
            await self._wait()

    async def stay(self) -> None:
        await self._client.run(_READ, self._keys, (self._after, 0, 0, _LEASE))

    def close(self) -> None:
        if self._listens:
            self._listens = False
            self._subscriber.leave(self._keys[1], self._wake)

    async def _read(self) -> Sequence[Batch] | End | None:
        """A page; the end, if there is nothing before it."""
        page = await self._shared.do((self._keys[0], self._after), self._read_page)
        if self._after < page.begins:
            raise Trimmed
        if not page.batches:
            return page.end
        self._after = page.batches[-1].last
        # Later batches are notified.
        self._is_at_end = self._listens and not (page.is_full or page.end)
        return page.batches

    async def _read_page(self) -> Page:
        reply = await self._client.run(_READ, self._keys, (self._after, _PAGE, _ENTRIES, _LEASE))
        begins, is_clean, reason, *rest = reply
        batches = self._sealing.batches(self._turn, rest)
        size = sum([len(batch.data) for batch in batches])
        is_full = size >= _PAGE or len(batches) >= _ENTRIES
        end = End(is_clean == b"1", reason.decode("utf-8", "replace")) if is_clean else None
        return Page(begins, batches, is_full, end)

    def _end_of(self, record: Record) -> End:
        """The journal has no end of its own: its owner has died, or it has expired."""
        if (record.state != RELEASED and record.last > self._after) or record.state == DONE:
            raise Trimmed
        return End(False, record.reason)

    def _wake(self, _: bytes) -> None:
        self._woken.set()

    async def _wait(self) -> None:
        """Until it is notified, or it is time for a look."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._until_next(_LOOK)):
                await self._woken.wait()

    def _until_next(self, period: float) -> float:
        """Seconds until the next look of all followers of this turn, which share it."""
        now = asyncio.get_running_loop().time()
        phase = crc32(self._keys[0].encode()) / 2**32
        return period * (1.0 - (now / period + phase) % 1.0)
