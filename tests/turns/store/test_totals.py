"""Limits for all principals together: the sums over all processes, in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.keys import GLOBAL_USE
from hermes_lb.turns.store.quotas import Quotas, Totals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EACH = Quotas(turns=100, stored=64, waiters=16)
TOGETHER = Quotas(turns=10, stored=1000, waiters=5)
OPEN, NO_TURNS, NO_WAITERS = EACH, EACH._replace(turns=0), EACH._replace(waiters=0)


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[StoreClient]:
    opened = StoreClient(valkey_url)
    await opened.ask(GLOBAL_USE, "DEL", GLOBAL_USE)
    yield opened
    await opened.ask(GLOBAL_USE, "DEL", GLOBAL_USE)
    await opened.close()


async def test_turns_and_waiters_of_all_processes_count(client: StoreClient) -> None:
    here, there = Totals(client, EACH, TOGETHER), Totals(client, EACH, TOGETHER)
    await there.update("o2", 6, 4, 0.0)
    await here.update("o1", 1, 0, 0.0)
    for turns, waiters, expected in [
        (0, 0, OPEN), (3, 0, OPEN), (4, 0, NO_TURNS), (0, 1, NO_WAITERS),
        (4, 1, EACH._replace(turns=0, waiters=0)),
    ]:  # fmt: skip
        assert here.quotas(turns, waiters) == expected, (turns, waiters)
    await there.update("o2", 0, 0, 0.0)
    await here.update("o1", 4, 0, 0.0)
    assert here.quotas(4, 1) == OPEN


async def test_one_client_leaves_room_for_others(client: StoreClient) -> None:
    """As many as are free: half of all, if there are no others."""
    here, there = Totals(client, EACH, TOGETHER), Totals(client, EACH, TOGETHER)
    await here.update("o1", 0, 0, 0.0)
    assert here.quotas(4, 0, client_turns=4) == OPEN
    assert here.quotas(5, 0, client_turns=5) == NO_TURNS
    assert here.quotas(5, 0) == OPEN
    assert here.quotas(0, 2, client_waiters=2) == OPEN
    assert here.quotas(0, 3, client_waiters=3) == NO_WAITERS
    await there.update("o2", 6, 0, 0.0)
    await here.update("o1", 2, 0, 0.0)
    assert here.quotas(2, 0, client_turns=2) == NO_TURNS
    assert here.quotas(2, 0, client_turns=1) == OPEN


async def test_stored_bytes_count_until_they_expire(client: StoreClient) -> None:
    here, there = Totals(client, EACH, TOGETHER), Totals(client, EACH, TOGETHER)
    there.store(600, 3600.0, 0.0)
    await there.update("o2", 0, 0, 0.0)
    here.store(300, 100.0, 0.0)
    await here.update("o1", 0, 0, 0.0)
    assert here.quotas(0, 0) == OPEN
    here.store(100, 3600.0, 0.0)  # at once, not with the next update only
    assert here.quotas(0, 0) == NO_TURNS
    await here.update("o1", 0, 0, 200.0)
    assert here.quotas(0, 0) == OPEN


async def test_a_process_that_is_gone_counts_no_more(client: StoreClient) -> None:
    here = Totals(client, EACH, TOGETHER)
    await client.ask(GLOBAL_USE, "HSET", GLOBAL_USE, "dead", "1000 100 100 100000")
    await here.update("o1", 0, 0, 0.0)
    assert here.quotas(0, 0) == OPEN
    assert await client.ask(GLOBAL_USE, "HKEYS", GLOBAL_USE) == [b"o1"]
    assert await client.ask(GLOBAL_USE, "PTTL", GLOBAL_USE) > 0
