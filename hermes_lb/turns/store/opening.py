"""The store of `[store]`, put together from its parts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.secret import store_key
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.incarnation import retire
from hermes_lb.turns.store.sealing import Sealing
from hermes_lb.turns.store.stored_journals import StoredJournals
from hermes_lb.turns.store.stored_turns import StoredTurns

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.options import StoreOptions
    from hermes_lb.turns.ports import TurnStore


# Seconds for the attempts to retire a dead process. After a lease it is observed to be dead all the
# same.
_RETIRES: Final = 15.0


async def open_store(
    options: StoreOptions, on_incarnation: Callable[[str], None] = lambda incarnation: None
) -> TurnStore:
    """It is used whether the store can be reached or not. Raises ValueError for a wrong URL, and
    ValueError or OSError for `key_file`.

    `on_incarnation` is called with the id of this process, and with each later one. For
    `retire_incarnation`, in case that it dies.
    """
    if options.url is None:
        raise ValueError("[store] needs a url: the embedded Valkey is not started here")
    sealing = Sealing(store_key(options))
    client = StoreClient(options.url)
    journals = StoredJournals(client, sealing)
    turns = StoredTurns(
        client, journals, journals.subscriber, sealing=sealing, on_incarnation=on_incarnation
    )
    turns.start()
    return turns


async def retire_incarnation(url: str, incarnation: str) -> None:
    """Its process has died: end its turns at once."""
    client = StoreClient(url)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_RETIRES):
            while True:
                try:
                    await retire(client, incarnation)
                    break
                except StoreAway:
                    await asyncio.sleep(client.patience)
    await client.close()
