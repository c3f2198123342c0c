"""What turns take in a store: docs/turn-gateway.md has these figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.turns.ports import OWNED
from hermes_lb.turns.store.journal import StoredJournal
from hermes_lb.turns.store.keys import control_keys
from hermes_lb.turns.store.stored_turns import StoredTurns
from tests.support.waiting import until
from tests.turns.store.rig import Turn, claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.redis_server import RedisServer
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.stored_journals import StoredJournals
    from tests.turns.store.conftest import Connected

    Journals = Callable[[StoreClient], StoredJournals]

_EVENT = b"id: h1." + b"x" * 42 + b".1234\ndata: " + b"y" * 250 + b"\n\n"


async def _size(client: StoreClient, key: str) -> int:
    """Bytes, by the server; all entries of a stream are counted."""
    size = await client.ask(key, "MEMORY", "USAGE", key, "SAMPLES", "0")
    assert isinstance(size, int)
    return size


async def test_the_memory_of_a_journal(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    turn = Turn(journals(client))
    journal = turn.journal
    assert isinstance(journal, StoredJournal)
    for _ in range(1000):  # a batch of each, as a server with a token at a time has them
        journal.append(_EVENT, 1)
        journal._cut()
    await until(lambda: not journal.unacknowledged)
    own, events = [await _size(client, key) for key in turn.keys]
    assert own <= 250
    assert 0 <= events - 1000 * len(_EVENT) <= 1000 * 30
    # The first node of a stream is allocated whole.
    turn = Turn(journals(client))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert await _size(client, turn.keys[1]) <= 4500


async def test_the_memory_of_a_record(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    written = journals(client)
    store = StoredTurns(client, written, written.subscriber)
    asked = claim(key="k" * 26, session="s" * 26, fingerprint="f" * 26)
    begun = await store.begin(asked)
    assert begun.outcome == OWNED
    assert begun.owned is not None
    await begun.owned.started("server-1")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"
    await begun.owned.headed(head, is_stream=True)
    keys = control_keys(begun.owned.id, asked.key, asked.session)
    sizes = [await _size(client, key) for key in (keys.turn, keys.key, keys.session)]
    assert sum(sizes) <= 2000, sizes
    await store.close()
