"""Opens the store of `[store]` for a process that serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.stored_journals import StoredJournals
from hermes_lb.turns.store.stored_turns import StoredTurns

if TYPE_CHECKING:
    from hermes_lb.turns.options import StoreOptions
    from hermes_lb.turns.ports import TurnStore


async def open_turn_store(options: StoreOptions) -> TurnStore:
    """`options` has a URL: the embedded Valkey's if it is that. `close` the store. Raises
    ValueError if the URL can't be understood; a store that is away is no error."""
    assert options.url is not None
    client = StoreClient(options.url)
    journals = StoredJournals(client)
    store = StoredTurns(client, journals, journals.subscriber)
    store.start()
    return store
