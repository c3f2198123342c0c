"""The store of `[store]`, put together from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.stored_journals import StoredJournals
from hermes_lb.turns.store.stored_turns import StoredTurns

if TYPE_CHECKING:
    from hermes_lb.turns.options import StoreOptions
    from hermes_lb.turns.ports import TurnStore


async def open_store(options: StoreOptions) -> TurnStore:
    """It is used whether the store can be reached or not. Raises ValueError for a wrong URL."""
    if options.url is None:
        raise ValueError("[store] needs a url: the embedded Valkey is not started here")
    client = StoreClient(options.url)
    turns = StoredTurns(client, StoredJournals(client))
    turns.start()
    return turns
