"""All journals of this process, in Redis or Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.tasks import Tasks
from hermes_lb.turns.ports import Fenced
from hermes_lb.turns.store.journal import StoredJournal
from hermes_lb.turns.store.journals import Adopted, Journals, Kept
from hermes_lb.turns.store.keys import journal_keys
from hermes_lb.turns.store.reading import StoredReading
from hermes_lb.turns.store.scripts import script
from hermes_lb.turns.store.sealing import Sealing
from hermes_lb.turns.store.shared_work import SharedWork
from hermes_lb.turns.store.subscriber import Subscriber
from hermes_lb.turns.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb.turns.ports import Claim, Reading, Record
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.journals import OwnedJournal
    from hermes_lb.turns.store.reading import Page

_FENCE_OFF: Final = script("fence_off")
_ADOPT: Final = script("adopt")
# Batches at the end of a journal that is taken over, one of which has an event with an id: only
# those that belong to one connection have none.
_TAIL: Final = 32


class StoredJournals(Journals):
    """Made in the event loop. `close` it before the client."""

    __slots__ = ("_client", "_pages", "_sealing", "_tasks", "_writer", "subscriber")

    def __init__(self, client: StoreClient, sealing: Sealing | None = None) -> None:
        self._client = client
        self._sealing = sealing or Sealing(None)
        self._tasks = Tasks()
        self._writer = Writer(client, self._tasks)
        self._pages: SharedWork[Page] = SharedWork(self._tasks)
        #: Also for the channels of others.
        self.subscriber = Subscriber(client, self._tasks)

    def open(self, turn: str, nonce: str, claim: Claim) -> OwnedJournal:
        return StoredJournal(turn, nonce, claim, self._writer, self._sealing.of(turn))

    async def fence_off(self, turn: str, nonce: str, after: str = "") -> tuple[str, bool]:
        args = (nonce, self._writer.publish, after)
        now, end = await self._client.run(_FENCE_OFF, journal_keys(turn), args)
        return now.decode(), end == b"1"

    async def adopt(self, turn: str, nonce: str, claim: Claim) -> Adopted:
        journal = StoredJournal(turn, nonce, claim, self._writer, self._sealing.of(turn))
        args = (nonce, journal.terms.ttl_ms, _TAIL)
        last, *rest = await self._client.run(_ADOPT, journal_keys(turn), args)
        if last < 0:
            raise Fenced
        begins, *rest = rest
        journal.go_on(last, is_trimmed=begins > 0)
        tail = self._sealing.batches(turn, rest)
        return Adopted(journal, last, tail[::-1])

    async def kept(self, turn: str) -> Kept:
        own, _ = journal_keys(turn)
        fields = await self._client.ask(own, "HMGET", own, "begins", "last", "bytes")
        begins, last, size = (int(each or 0) for each in fields)
        return Kept(begins + 1 if begins < last else 0, last, size)

    def follow(
        self, record: Record, after: int, find: Callable[[], Awaitable[Record | None]]
    ) -> Reading:
        return StoredReading(
            record.id, after, self._client, self.subscriber, self._pages, self._sealing, find
        )

    async def close(self) -> None:
        self._writer.close()
        self.subscriber.close()
        await self._tasks.cancel_all()
