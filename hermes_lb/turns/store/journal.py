"""The journal of a turn that this process executes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.ports import Fenced, StoreAway
from hermes_lb.turns.store.journals import Kept, OwnedJournal
from hermes_lb.turns.store.keys import journal_keys
from hermes_lb.turns.store.outbox import OutBatch, Outbox
from hermes_lb.turns.store.scripts import script

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.ports import Claim, End
    from hermes_lb.turns.store.link import Command
    from hermes_lb.turns.store.writer import Lane, Writer

APPEND: Final = script("append")
_FINISH: Final = script("finish")
_FOLLOWED: Final = script("followed")

#: Bytes that the store may have not acknowledged; the caller pauses the server beyond them.
HIGH_WATER: Final = 256 * 1024
# Seconds for which it may have more, before the journal is given up to here (rule 47); bytes at
# which it is given up at once, since the server was not paused.
_GIVE_UP: Final = 2.0
_MOST: Final = 4 * HIGH_WATER
# Bytes of a batch, except one of a single event: a follower reads whole batches. Of a small window
# it is an eighth.
_BATCH: Final = 64 * 1024
# A journal that is not written lives for this longer than its turn is kept, in seconds: an outage
# of the store must not end it.
_LIVE: Final = 600.0


class StoredJournal(OwnedJournal):
    """Made by `StoredJournals.open`."""

    __slots__ = (
        "_batch_size", "_drained", "_empty", "_is_refused", "_last", "_life", "_nonce", "_outbox",
        "_pending", "_pending_events", "_pending_size", "_refused", "_settled", "_size",
        "_slow_since", "_writer", "is_dirty", "is_trimmed", "keys", "lane", "renewed_at", "ttl_ms",
        "unacknowledged",
    )  # fmt: skip

    def __init__(self, turn: str, nonce: str, claim: Claim, writer: Writer) -> None:
        self.keys = journal_keys(turn)
        self.is_stream = False
        self.is_trimmed = False
        self.unacknowledged = 0
        # The writer's.
        self.lane: Lane | None = None
        self.is_dirty = False
        self.renewed_at = 0.0
        self.ttl_ms = int((claim.keep + _LIVE) * 1000)
        self._writer = writer
        self._nonce = nonce
        self._size = claim.journal_size
        self._batch_size = min(_BATCH, claim.journal_size // 8)
        self._life = (claim.keep, min(claim.keep, claim.keep_events))
        self._last = 0  # event that was appended
        self._pending: list[bytes] = []  # since the last flush
        self._pending_events = 0
        self._pending_size = 0
        self._outbox = Outbox(writer.client.topology.has_failover)
        self._slow_since = 0.0
        self._settled = 0  # acknowledged, if only once, or given up, up to this event
        self._is_refused = False
        self._empty: asyncio.Event | None = None
        self._refused: Callable[[], None] | None = None
        self._drained: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<StoredJournal {self.keys[1]} {self._last} unacknowledged={self.unacknowledged}>"

    def go_on(self, last: int, *, is_trimmed: bool) -> None:
        """Behind the events of another process, whose turn was taken over."""
        self._last = self._settled = last
        self.is_stream, self.is_trimmed = True, is_trimmed

    @property
    def is_slow(self) -> bool:
        """It had more than the high-water mark unacknowledged, and has not drained since."""
        return self._slow_since > 0.0

    def append(self, data: bytes, events: int) -> None:
        if self._is_refused or not data:
            return
        size = len(data)
        if self._pending_size + size > self._batch_size:
            self._cut()
        self._pending.append(data)
        self._pending_events += events
        self._pending_size += size
        self._last += events
        self.unacknowledged += size
        if not self.is_dirty:
            self._writer.add(self)
        if self.unacknowledged > HIGH_WATER:
            self._is_behind()

    def skip(self) -> None:
        if self._is_refused:
            return
        self._cut()
        self._last += 1
        self._outbox.put(OutBatch(self._last - 1, self._last, b""))
        self.is_trimmed = True
        if not self.is_dirty:
            self._writer.add(self)

    def watch(self, refused: Callable[[], None], drained: Callable[[], None]) -> None:
        self._refused, self._drained = refused, drained

    def refuse(self) -> None:
        if self._is_refused:
            return
        self._is_refused = True
        self._drop_pending()
        self._outbox.clear()
        self.unacknowledged = 0
        self._writer.forget(self)
        self._wake()
        if self._refused is not None:
            self._refused()

    async def finish(self, end: End) -> Kept:
        while True:
            await self._all_acknowledged()
            if self._is_refused:
                raise Fenced
            args = (self._nonce, self._last, int(end.is_clean), end.reason, self._life_ms)
            client, publish = self._writer.client, self._writer.publish
            reply = await client.run(_FINISH, self.keys, (*args, publish))
            if isinstance(reply, list):
                self._writer.forget(self)
                return Kept(*reply)
            if reply == -1 or -2 - reply > self._last:
                self.refuse()
            else:
                self._outbox.lose_behind(-2 - reply, self._last)
                self._writer.add(self)

    async def settle(self) -> None:
        await self._all_acknowledged()
        if self._is_refused:
            raise Fenced
        self._writer.forget(self)

    async def notify(self) -> None:
        with suppress(StoreAway):  # they look by themselves
            await self._writer.client.publish(self.keys[1], "")

    async def is_followed(self) -> bool:
        return bool(await self._writer.client.run(_FOLLOWED, self.keys[:1], ()))

    @property
    def _life_ms(self) -> int:
        """Of its events, after the end."""
        return int(self._life[self.is_stream] * 1000)

    async def _all_acknowledged(self) -> None:
        if self._empty is None:
            self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(self._writer.client.patience):
                while (self._pending or self._outbox) and not self._is_refused:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            raise StoreAway("the journal is not acknowledged in time") from None

    def _cut(self) -> None:
        """Make a batch of what is pending."""
        if self._pending:
            last = self._last
            pending = b"".join(self._pending)
            self._outbox.put(OutBatch(last - self._pending_events, last, pending))
            self._drop_pending()

    def _drop_pending(self) -> None:
        self._pending.clear()
        self._pending_events = self._pending_size = 0

    def _is_behind(self) -> None:
        now = self._writer.now()
        if not self._slow_since:
            self._slow_since = now
        elif now - self._slow_since >= _GIVE_UP or self.unacknowledged > _MOST:
            self._drop_pending()
            self._outbox.give_up(self._last)
            self._settled = self._last
            self.unacknowledged = 0
            self.is_trimmed = True
            self._drain()

    def _drain(self) -> None:
        self._slow_since = 0.0
        if self._drained is not None:
            self._drained()

    def _wake(self) -> None:
        if self._empty is not None:
            self._empty.set()

    # Called by the writer.

    def commands(self) -> list[Command]:
        """Those that append what has not been sent; a reply to each is passed on."""
        self._cut()
        ttl, publish, life = self.ttl_ms, self._writer.publish, self._life_ms
        return [
            (
                "EVALSHA", APPEND.sha, 2, *self.keys,
                self._nonce, before, last, data, self._size, ttl, publish, life,
            )
            for before, last, data in self._outbox.unsent()
        ]  # fmt: skip

    def acknowledged(self, reply: int) -> None:
        """A reply of append.lua."""
        outbox = self._outbox
        if reply == -1:
            self.refuse()
            outbox.failed()
        elif reply < 0:
            outbox.behind(-2 - reply)
        else:
            batch = outbox.acknowledged(self._writer.now())
            if batch is not None:
                self._has_acknowledged(batch, reply)
        self._repeat()

    def failed(self) -> None:
        """No reply, or an error."""
        self._outbox.failed()
        self._repeat()

    def tidy(self, now: float) -> None:
        self._outbox.tidy(now)

    def _has_acknowledged(self, batch: OutBatch, begins: int) -> None:
        self.is_trimmed = self.is_trimmed or begins > 0
        if batch.last > self._settled:
            self._settled = batch.last
            self.unacknowledged -= len(batch.data)
        if self._slow_since and self.unacknowledged <= HIGH_WATER // 2:
            self._drain()
        if not self._outbox:
            self._wake()

    def _repeat(self) -> None:
        if self._outbox.is_to_repeat and not self._is_refused:
            self._outbox.repeat(self._last - self._pending_events)
            self._writer.add(self)
