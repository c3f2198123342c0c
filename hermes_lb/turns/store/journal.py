"""The journal of a turn that this process executes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.ports import HIGH_WATER, Fenced, StoreAway
from hermes_lb.turns.store.append_command import packed, terms_of
from hermes_lb.turns.store.journals import Kept, OwnedJournal
from hermes_lb.turns.store.keys import journal_keys
from hermes_lb.turns.store.outbox import Outbox
from hermes_lb.turns.store.scripts import script

if TYPE_CHECKING:
    from hermes_lb.turns.ports import Claim, End, TurnWatcher
    from hermes_lb.turns.store.lane import Lane
    from hermes_lb.turns.store.outbox import OutBatch
    from hermes_lb.turns.store.sealing import Seal
    from hermes_lb.turns.store.writer import Writer

_FINISH: Final = script("finish")
_FENCE_OFF: Final = script("fence_off")
_FOLLOWED: Final = script("followed")

# Seconds for which it may have more, before the journal is given up to here (rule 47); bytes at
# which it is given up at once, since the server was not paused.
_GIVE_UP: Final = 2.0
_MOST: Final = 4 * HIGH_WATER


class StoredJournal(OwnedJournal):
    """Made by `StoredJournals.open`."""

    __slots__ = (
        "_cut_at", "_empty", "_last", "_nonce", "_outbox", "_pending", "_pending_size", "_seal",
        "_settled", "_slow_since", "_turn", "_watcher", "_writer",
        "is_dirty", "is_refused", "is_trimmed", "lane", "packed_keys", "packed_nonce",
        "renewed_at", "terms", "unacknowledged",
    )  # fmt: skip

    def __init__(
        self, turn: str, nonce: str, claim: Claim, writer: Writer, seal: Seal | None = None
    ) -> None:
        self.is_stream = False
        self.is_trimmed = False
        self.unacknowledged = 0
        # The writer's.
        self.lane: Lane | None = None
        self.is_dirty = False
        self.renewed_at = 0.0
        self.is_refused = False
        self.terms = terms_of(claim.journal_size, claim.keep, claim.keep_events, writer.publish)
        self.packed_keys = b"".join([packed(key) for key in journal_keys(turn)])
        self.packed_nonce = packed(nonce)
        self._writer = writer
        self._seal = seal
        self._turn = turn
        self._nonce = nonce
        self._last = 0  # event that was appended
        self._cut_at = 0  # the last one that is in a batch
        self._pending: bytes | list[bytes] = b""  # behind it; nearly always one event
        self._pending_size = 0
        self._outbox = Outbox(writer.client.topology.has_failover)
        self._slow_since = 0.0
        self._settled = 0  # acknowledged, if only once, or given up, up to this event
        self._empty: asyncio.Event | None = None
        self._watcher: TurnWatcher | None = None

    def __repr__(self) -> str:
        return f"<StoredJournal {self._turn} {self._last} unacknowledged={self.unacknowledged}>"

    @property
    def keys(self) -> tuple[str, str]:
        return journal_keys(self._turn)

    def go_on(self, last: int, *, is_trimmed: bool) -> None:
        """Behind the events of another process, whose turn was taken over."""
        self._last = self._cut_at = self._settled = last
        self.is_stream, self.is_trimmed = True, is_trimmed

    @property
    def is_slow(self) -> bool:
        """It had more than the high-water mark unacknowledged, and has not drained since."""
        return self._slow_since > 0.0

    def append(self, data: bytes, events: int) -> None:
        if self.is_refused or not data:
            return
        size = len(data)
        pending = self._pending
        if not pending:
            self._pending, self._pending_size = data, size
        elif self._pending_size + size > self.terms.batch_size:
            self._cut()
            self._pending, self._pending_size = data, size
        else:
            self._pending_size += size
            if isinstance(pending, list):
                pending.append(data)
            else:
                self._pending = [pending, data]
        self._last += events
        self.unacknowledged += size
        if not self.is_dirty:
            self._writer.add(self)
        if self.unacknowledged > HIGH_WATER:
            self._is_behind()

    def skip(self) -> None:
        if self.is_refused:
            return
        self._cut()
        self._outbox.put(self._last, self._last + 1, b"")
        self._last += 1
        self._cut_at = self._last
        self.is_trimmed = True
        if not self.is_dirty:
            self._writer.add(self)

    def watch(self, watcher: TurnWatcher) -> None:
        self._watcher = watcher

    def refuse(self) -> None:
        if self.is_refused:
            return
        self.is_refused = True
        self._drop_pending()
        self._outbox.clear()
        self.unacknowledged = 0
        self._writer.forget(self)
        if self._empty is not None:
            self._empty.set()
        if self._watcher is not None:
            self._watcher.turn_refused()

    async def finish(self, end: End) -> Kept:
        while True:
            await self._all_acknowledged()
            if self.is_refused:
                raise Fenced
            args = (self._nonce, self._last, int(end.is_clean), end.reason)
            life, publish = self.terms.lives[self.is_stream], self._writer.publish
            reply = await self._writer.client.run(_FINISH, self.keys, (*args, life, publish))
            if isinstance(reply, list):
                self._writer.forget(self)
                return Kept(*reply)
            if reply == -1 or -2 - reply > self._last:
                self.refuse()
            else:
                self._outbox.lose_behind(-2 - reply, self._last)
                self._writer.add(self)

    async def leave(self) -> str:
        await self._all_acknowledged()
        if self.is_refused:
            raise Fenced
        self._writer.forget(self)
        args = (token_urlsafe(16), self._writer.publish, self._nonce)
        nonce, _ = await self._writer.client.run(_FENCE_OFF, self.keys, args)
        return str(nonce.decode())

    async def notify(self) -> None:
        with suppress(StoreAway):  # they look by themselves
            await self._writer.client.publish(self.keys[1], "")

    async def is_followed(self) -> bool:
        return bool(await self._writer.client.run(_FOLLOWED, self.keys[:1], ()))

    async def _all_acknowledged(self) -> None:
        if self._empty is None:
            self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(self._writer.client.patience):
                while (self._pending or self._outbox) and not self.is_refused:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            raise StoreAway("the journal is not acknowledged in time") from None

    def _cut(self) -> None:
        """Make a batch of what is pending."""
        pending = self._pending
        if pending:
            data = pending if isinstance(pending, bytes) else b"".join(pending)
            if self._seal is not None:
                size = len(data)
                data = self._seal.seal(data, self._last)
                self.unacknowledged += len(data) - size
            self._outbox.put(self._cut_at, self._last, data)
            self._cut_at = self._last
            self._pending = b""

    def _drop_pending(self) -> None:
        self._cut_at = self._last
        self._pending = b""

    def _is_behind(self) -> None:
        now = self._writer.now()
        if not self._slow_since:
            self._slow_since = now
            if self._watcher is not None:
                self._watcher.journal_fell_behind()
        elif now - self._slow_since >= _GIVE_UP or self.unacknowledged > _MOST:
            self._drop_pending()
            self._outbox.give_up(self._last)
            self._settled = self._last
            self.unacknowledged = 0
            self.is_trimmed = True
            self._drain()

    def _drain(self) -> None:
        self._slow_since = 0.0
        if self._watcher is not None:
            self._watcher.journal_caught_up()

    # Called by the writer.

    def unsent(self) -> list[OutBatch]:
        """The batches to send now; for each of them, one of the next two is called."""
        pending = self._pending
        if isinstance(pending, bytes) and pending and self._seal is None:  # nearly always
            batch = (self._cut_at, self._last, pending)
            self._cut_at = self._last
            self._pending = b""
            return self._outbox.send(batch)
        self._cut()
        return self._outbox.unsent()

    def arguments(self, batch: OutBatch) -> tuple[str | bytes | int, ...]:
        """Of append.lua."""
        return *self.terms.arguments[self.is_stream], self._nonce, *batch

    def acknowledged(self, reply: int, now: float) -> None:
        """A reply of append.lua."""
        outbox = self._outbox
        if reply >= 0:
            batch = outbox.acknowledged(now)
            if batch is not None:
                _, last, data = batch
                if last > self._settled:
                    self._settled = last
                    self.unacknowledged -= len(data)
                if reply:
                    self.is_trimmed = True
                if self._slow_since and self.unacknowledged <= HIGH_WATER // 2:
                    self._drain()
                if self._empty is not None and not outbox:
                    self._empty.set()
        elif reply == -1:
            self.refuse()
            outbox.failed()
        else:
            outbox.behind(-2 - reply)
        if outbox.is_broken:
            self._repeat()

    def failed(self) -> None:
        """No reply, or an error."""
        self._outbox.failed()
        self._repeat()

    def tidy(self, now: float) -> None:
        self._outbox.tidy(now)

    def _repeat(self) -> None:
        if self._outbox.is_to_repeat and not self.is_refused:
            self._outbox.repeat(self._cut_at)
            self._writer.add(self)
