"""Turns as operators see them, and what they can do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import OWNED
from hermes_lb.turns.store.inventory import Inventory
from tests.support.turn_fleet import ValkeyFleet, new_principal, own, run
from tests.support.turn_watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def fleet(valkey_url: str) -> AsyncIterator[ValkeyFleet]:
    running = ValkeyFleet(valkey_url)
    yield running
    await running.close()


@pytest.fixture
async def inventory(valkey_url: str) -> AsyncIterator[Inventory]:
    opened = Inventory(valkey_url)
    yield opened
    await opened.close()


async def test_turns_are_listed_newest_first_without_their_ids(
    fleet: ValkeyFleet, inventory: Inventory
) -> None:
    store = await fleet.at(0)
    turns = [await run(store, fleet.claim(key=f"{number}", session=f"{number}")) for number in "ab"]
    await turns[0].lost("backend")
    await own(store, fleet.claim(principal=new_principal()))
    rows = await inventory.turns(fleet.principal[:16], 100)
    assert {(row["id"], row["state"], row["reason"]) for row in rows} == {
        (turns[0].id[:24], "lost", "backend"),
        (turns[1].id[:24], "running", ""),
    }
    assert [row["begun_at"] for row in rows] == sorted(
        (row["begun_at"] for row in rows), reverse=True
    )
    assert all(row["has_key"] and row["has_session"] and row["server"] == "s1" for row in rows)
    assert turns[0].id not in repr(rows)
    assert len(await inventory.turns(fleet.principal[:16], 1)) == 1
    assert len(await inventory.turns("", 100)) >= 3
    assert [row["id"] for row in await inventory.turns(turns[1].id[:24], 9)] == [turns[1].id[:24]]
    for pattern in ("*", "[a-z]", "{", "unknown"):
        assert await inventory.turns(pattern, 9) == []


async def test_a_turn_is_cancelled_at_its_owner(fleet: ValkeyFleet, inventory: Inventory) -> None:
    turn = await run(await fleet.at(0), fleet.claim())
    watcher = Watcher()
    turn.watch(watcher)
    assert await inventory.cancel(turn.id[:24]) == 1
    await watcher.asked_to_cancel.wait()
    assert await inventory.cancel("unknown") == 0


async def test_a_purge_deletes_all_of_a_principal(fleet: ValkeyFleet, inventory: Inventory) -> None:
    store = await fleet.at(0)
    running = await run(store, fleet.claim(key="a", session="s"), b"data: 1\n\n")
    watcher = Watcher()
    running.watch(watcher)
    ended = await run(store, fleet.claim(key="b"), b"data: 1\n\n")
    await ended.done()
    other = await own(store, fleet.claim(principal=new_principal(), key="a"))
    assert await inventory.purge("*") == 0
    assert await inventory.purge(fleet.principal[:16]) == 2
    await watcher.refused.wait()
    assert await inventory.turns(fleet.principal[:16], 9) == []
    for turn in (running, ended):
        assert await store.find(fleet.principal, turn.id) is None
    assert len(await inventory.turns(other.id[:24], 9)) == 1
    running.journal.append(b"data: 2\n\n", 1)  # its owner has not stopped yet
    assert (await store.begin(fleet.claim(key="a", session="s"))).outcome == OWNED
