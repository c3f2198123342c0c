"""A turn that this process executes, in the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.turns.ports import End, Fenced, OwnedTurn, StoreAway
from hermes_lb.turns.states import CANCELLED, CANCELLING, DONE, LOST
from hermes_lb.turns.store.quotas import RECORD_SIZE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb.turns.ports import Claim, TurnWatcher
    from hermes_lb.turns.store.control import Control
    from hermes_lb.turns.store.journals import OwnedJournal
    from hermes_lb.turns.store.keys import TurnName
    from hermes_lb.turns.store.sealing import Sealing
    from hermes_lb.turns.store.session_queue import SessionQueue


class Services(NamedTuple):
    """What all turns of this process use: one reference in each. `left` is called once when a turn
    has ended; `again` repeats an operation in the background until it succeeds."""

    control: Control
    queue: SessionQueue
    sealing: Sealing
    incarnation: Callable[[], str]
    left: Callable[[StoredOwnedTurn], None]
    again: Callable[[Callable[[], Awaitable[None]]], None]


class StoredOwnedTurn(OwnedTurn):
    """Made by `StoredTurns.begin`."""

    __slots__ = (
        "_head_size", "_is_ended", "_keep", "_keep_events", "_services", "_watcher", "_woken",
        "can_be_taken_over", "fence", "has_started", "id", "is_cancelled",
        "journal", "kept_size", "name", "record_size",
    )  # fmt: skip

    journal: OwnedJournal

    def __init__(
        self,
        name: TurnName,
        claim: Claim,
        fence: int,
        journal: OwnedJournal,
        services: Services,
    ) -> None:
        self.name = name
        self.id = name.id
        self.fence = fence
        self.journal = journal
        self.has_started = False
        self.can_be_taken_over = False
        self.is_cancelled = False
        # Bytes that are kept once it has ended: of its journal, and of its record.
        self.kept_size = self.record_size = 0
        self._head_size = 0
        # Not the claim, which takes 0.2 KB.
        self._keep, self._keep_events = claim.keep, claim.keep_events
        self._services = services
        self._watcher: TurnWatcher | None = None
        self._woken: asyncio.Event | None = None  # while it waits for its session
        self._is_ended = False

    def __repr__(self) -> str:
        return f"<StoredOwnedTurn {self.id[16:24]} fence={self.fence}>"

    @property
    def kept_for(self) -> float:
        """Seconds for which its journal is kept after its end."""
        keep = self._keep
        return min(keep, self._keep_events) if self.journal.is_stream else keep

    @property
    def record_kept_for(self) -> float:
        return self._keep

    @property
    def is_queued(self) -> bool:
        """It waits for its session."""
        return self._woken is not None

    async def granted(self) -> None:
        self._woken = asyncio.Event()
        try:
            self.fence = await self._services.queue.granted(
                self.name, self._services.incarnation, self._woken
            )
        except Fenced:
            await self.look()
            raise
        finally:
            self._woken = None

    async def started(self, server: str) -> None:
        self.has_started = True
        # A replica has it too, if the turn has a key: after a failover it must not look as if it
        # was never sent.
        await self._services.control.start(self.name, server, is_durable=bool(self.name.key))

    async def fingerprinted(self, fingerprint: str) -> None:
        await self._services.control.fingerprint(self.name, fingerprint)

    async def headed(
        self, head: bytes, *, is_stream: bool, resume_path: str = "", origin: str = ""
    ) -> None:
        self.journal.is_stream = is_stream
        head = self._services.sealing.sealed_head(self.id, head)
        self._head_size = len(head)
        self.can_be_taken_over = is_stream and bool(resume_path)
        await self._services.control.head(
            self.name, head, is_stream=is_stream, resume_path=resume_path, origin=origin
        )
        await self.journal.notify()

    async def retried(self, retry: str) -> None:
        await self._services.control.retry(self.name, retry)

    async def done(self) -> None:
        await self._end(DONE, End(True, ""))

    async def lost(self, reason: str) -> None:
        await self._end(LOST, End(False, reason))

    async def orphan(self) -> None:
        async def orphan() -> None:
            nonce = await self.journal.leave()
            await self._services.control.orphan(self.name, self._services.incarnation(), nonce)
            await self.journal.notify()

        await self._finish(orphan)

    async def is_followed(self) -> bool:
        return await self.journal.is_followed()

    async def cancelled(self) -> None:
        await self._end(CANCELLED, End(False, "cancelled"))

    async def release(self, answer: bytes) -> None:
        async def release() -> None:
            stored = self._services.sealing.sealed_head(self.id, answer) if answer else answer
            await self._services.control.release(self.name, stored)

        await self._finish(release)

    def watch(self, watcher: TurnWatcher) -> None:
        self._watcher = watcher
        self.journal.watch(watcher)
        if self.is_cancelled:
            watcher.cancel_requested()

    # Called by the store.

    def wake(self) -> None:
        """Its session may be granted to it."""
        if self._woken is not None:
            self._woken.set()

    async def look(self) -> None:
        """Renew it, and see whether it is still this process's, or to be cancelled."""
        try:
            state = await self._services.control.renew(self.name, self._services.incarnation())
        except StoreAway:
            return
        except Fenced:
            if not self._is_ended:
                self._leave()
                self.journal.refuse()
                self.wake()
            return
        if state in (CANCELLING, CANCELLED) and not self.is_cancelled and not self._is_ended:
            self.is_cancelled = True
            if state == CANCELLED:
                self._leave()
                self.wake()
            if self._watcher is not None:
                self._watcher.cancel_requested()

    async def _end(self, state: int, end: End) -> None:
        async def finish() -> None:
            kept = await self.journal.finish(end)
            self.kept_size = kept.size
            self.record_size = RECORD_SIZE + self._head_size
            await self._services.control.end(
                self.name,
                state,
                end.reason,
                first=kept.first,
                last=kept.last,
                size=kept.size,
                is_trimmed=self.journal.is_trimmed,
            )

        await self._finish(finish)

    async def _finish(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except (StoreAway, asyncio.CancelledError):
            self._services.again(operation)
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._services.left(self)
