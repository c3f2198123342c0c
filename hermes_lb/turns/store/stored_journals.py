"""All journals of this process, in Redis or Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hermes_lb.tasks import Tasks
from hermes_lb.turns.store.journal import StoredJournal
from hermes_lb.turns.store.journals import Journals
from hermes_lb.turns.store.keys import journal_keys
from hermes_lb.turns.store.reading import StoredReading
from hermes_lb.turns.store.scripts import script
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


class StoredJournals(Journals):
    """Made in the event loop. `close` it before the client."""

    __slots__ = ("_client", "_pages", "_tasks", "_writer", "subscriber")

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._tasks = Tasks()
        self._writer = Writer(client, self._tasks)
        self._pages: SharedWork[Page] = SharedWork(self._tasks)
        #: Also for the channels of others.
        self.subscriber = Subscriber(client, self._tasks)

    def open(self, turn: str, nonce: str, claim: Claim) -> OwnedJournal:
        return StoredJournal(turn, nonce, claim, self._writer)

    async def fence_off(self, turn: str, nonce: str) -> None:
        await self._client.run(_FENCE_OFF, journal_keys(turn), (nonce, self._writer.publish))

    def follow(
        self, record: Record, after: int, find: Callable[[], Awaitable[Record | None]]
    ) -> Reading:
        return StoredReading(record.id, after, self._client, self.subscriber, self._pages, find)

    async def close(self) -> None:
        self._writer.close()
        self.subscriber.close()
        await self._tasks.cancel_all()
