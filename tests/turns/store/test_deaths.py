"""Owners that die or stop where no supervisor sees it: other processes observe it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import JOINED, OWNED, End, Fenced, StoreAway
from hermes_lb.turns.states import DONE, ENDED, LOST
from hermes_lb.turns.store.stored_turns import StoredTurns
from tests.support.turn_fleet import ValkeyFleet, own, read_all, record_of, run
from tests.support.turn_watcher import Watcher
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def fleet(valkey_url: str) -> AsyncIterator[ValkeyFleet]:
    running = ValkeyFleet(valkey_url)
    yield running
    await running.close()


async def _abandon(fleet: ValkeyFleet, number: int) -> None:
    balancer = await fleet.at(number)
    assert isinstance(balancer, StoredTurns)
    await balancer.abandon()


async def test_a_turn_of_an_owner_without_beats_is_lost(fleet: ValkeyFleet) -> None:
    other = await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await run(await fleet.at(0), claim)
    await _abandon(fleet, 0)

    async def is_lost() -> bool:
        return (await record_of(other, claim, turn.id)).state == LOST

    await until(is_lost)
    begun = await other.begin(fleet.claim(key="k"))
    assert begun.outcome == JOINED
    assert begun.record is not None
    assert begun.record.reason == "owner_died"


async def test_the_session_of_an_owner_without_beats_goes_to_the_next_turn(
    fleet: ValkeyFleet,
) -> None:
    holder = await run(await fleet.at(0), fleet.claim(session="s"))
    waiter = await (await fleet.at(1)).begin(fleet.claim(session="s"))
    assert waiter.owned is not None
    await _abandon(fleet, 0)
    await waiter.owned.granted()
    assert waiter.owned.fence > holder.fence


@pytest.fixture
async def without_replica(valkey_url: str) -> AsyncIterator[ValkeyFleet]:
    """It wants one replica, and there is none."""
    running = ValkeyFleet(f"{valkey_url}?min_replicas=1")
    running.patience = 10.0  # WAIT alone takes half a second
    yield running
    await running.close()


async def test_a_keyed_turn_is_started_once_a_replica_has_it(without_replica: ValkeyFleet) -> None:
    """Else a failover could make it look as if it was never sent."""
    fleet = without_replica
    store = await fleet.at(0)
    turn = await own(store, fleet.claim(key="k"))
    with pytest.raises(StoreAway):
        await turn.started("s1")
    await turn.release(b"")
    assert (await store.begin(fleet.claim(key="k"))).outcome == OWNED
    without_key = await own(store, fleet.claim())
    await without_key.started("s1")


async def test_an_owner_that_was_stopped_finds_out_and_stops(fleet: ValkeyFleet) -> None:
    """Its beats are missing for a lease, and then it goes on."""
    store, other = await fleet.at(0), await fleet.at(1)
    assert isinstance(store, StoredTurns)
    claim = fleet.claim(key="k")
    turn = await run(store, claim, b"data: 1\n\n")
    watcher = Watcher()
    turn.watch(watcher)
    await store._tasks.cancel_all()  # beats, and the care for its turns

    async def is_lost() -> bool:
        return (await record_of(other, claim, turn.id)).state == LOST

    await until(is_lost)
    turn.journal.append(b"data: 2\n\n", 1)
    await watcher.refused.wait()
    with pytest.raises(Fenced):
        await turn.done()
    assert (await record_of(other, claim, turn.id)).state == LOST


@pytest.mark.parametrize("is_clean", [True, False])
async def test_an_owner_that_died_behind_the_end_of_its_journal(
    fleet: ValkeyFleet, is_clean: bool
) -> None:
    """All of the response is there, so the turn is done: its outcome is known."""
    store, other = await fleet.at(0), await fleet.at(1)
    assert isinstance(store, StoredTurns)
    claim = fleet.claim(key="k")
    turn = await run(store, claim, b"data: 1\n\n", b"data: 2\n\n")
    await store._owned[turn.id].journal.finish(End(is_clean, ""))
    await fleet.kill(0)

    async def has_ended() -> bool:
        return (await record_of(other, claim, turn.id)).state in ENDED

    await until(has_ended)
    record = await record_of(other, claim, turn.id)
    if is_clean:
        assert (record.state, record.first, record.last, record.is_kept) == (DONE, 1, 2, True)
        data, end = await read_all(other.follow(record, 0))
        assert (data, end.is_clean) == (b"data: 1\n\ndata: 2\n\n", True)
    else:
        assert (record.state, record.reason) == (LOST, "owner_died")
