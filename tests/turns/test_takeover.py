"""Turns whose owner has died, and whose backend can continue them: the store's part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import JOINED, Fenced
from hermes_lb.turns.states import CANCELLING, DONE, LOST, RUNNING
from hermes_lb.turns.store.owned_turn import StoredOwnedTurn
from tests.support.turn_fleet import ValkeyFleet, new_principal, own, read_all, record_of
from tests.support.waiting import until

if TYPE_CHECKING:
    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.ports import Claim, OwnedTurn, TurnStore
    from tests.support.turn_fleet import TurnFleet

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


async def resumable(store: TurnStore, claim: Claim, *events: bytes) -> OwnedTurn:
    """One that runs, and that another process could go on with."""
    turn = await own(store, claim)
    await turn.started("s1")
    await turn.headed(HEAD, is_stream=True, resume_path="/resume/1")
    for event in events:
        turn.journal.append(event, 1)
    return turn


class Orphans:
    """What a store has reported."""

    def __init__(self, store: TurnStore) -> None:
        self.found: list[tuple[str, str]] = []
        store.on_orphan(lambda *orphan: self.found.append(orphan))


async def orphaned(fleet: TurnFleet, store: TurnStore, claim: Claim, turn: str) -> None:
    """Wait until `store` reports it."""
    orphans = Orphans(store)

    async def is_found() -> bool:
        await record_of(store, claim, turn)
        return bool(orphans.found)

    await until(is_found)
    assert orphans.found[0] == (claim.principal, turn)


@pytest.mark.parametrize("how", ["dies", "leaves"])
async def test_another_process_goes_on(fleet: TurnFleet, tasks: Tasks, how: str) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k", session="s")
    turn = await resumable(store, claim, b"id: 1\n\n", b"id: 2\n\n")
    waiter = await other.begin(fleet.claim(session="s"))
    assert waiter.owned is not None
    reads = tasks.spawn(
        read_all(other.follow(await record_of(other, claim, turn.id), 0)), name="reads"
    )
    await fleet.acknowledged(turn)
    if how == "dies":
        await fleet.kill(0)
    else:
        await turn.orphan()
    await orphaned(fleet, other, claim, turn.id)
    taken = await other.take_over(fleet.claim(), turn.id)
    assert taken is not None
    assert (taken.owned.id, taken.owned.fence, taken.last) == (turn.id, turn.fence, 2)
    assert b"".join(batch.data for batch in taken.tail) == b"id: 1\n\nid: 2\n\n"
    assert (await record_of(other, claim, turn.id)).state == RUNNING
    taken.owned.journal.append(b"id: 3\n\n", 1)
    await taken.owned.done()
    data, end = await reads
    assert (data, end.is_clean) == (b"id: 1\n\nid: 2\n\nid: 3\n\n", True)
    record = await record_of(other, claim, turn.id)
    assert (record.state, record.first, record.last) == (DONE, 1, 3)
    assert (await other.begin(fleet.claim(key="k"))).outcome == JOINED
    await waiter.owned.granted()  # its session was held all the time
    assert waiter.owned.fence > turn.fence


async def test_of_several_processes_one_goes_on(fleet: TurnFleet) -> None:
    claim = fleet.claim(key="k")
    turn = await resumable(await fleet.at(0), claim, b"id: 1\n\n")
    await fleet.acknowledged(turn)
    others = [await fleet.at(number) for number in range(1, 5)]
    await fleet.kill(0)
    await asyncio.gather(*(orphaned(fleet, other, claim, turn.id) for other in others))
    taken = await asyncio.gather(*(other.take_over(fleet.claim(), turn.id) for other in others))
    [winner] = [each for each in taken if each is not None]
    winner.owned.journal.append(b"id: 2\n\n", 1)
    await winner.owned.done()
    data, end = await read_all(others[0].follow(await record_of(others[0], claim, turn.id), 0))
    assert (data, end.is_clean) == (b"id: 1\n\nid: 2\n\n", True)


async def test_one_that_goes_on_can_die_too(fleet: TurnFleet) -> None:
    claim = fleet.claim(key="k")
    turn = await resumable(await fleet.at(0), claim, b"id: 1\n\n")
    for number in (1, 2, 3):
        await fleet.acknowledged(turn)
        other = await fleet.at(number)
        await fleet.kill(number - 1)
        await orphaned(fleet, other, claim, turn.id)
        taken = await other.take_over(fleet.claim(), turn.id)
        assert taken is not None
        assert taken.last == number
        turn = taken.owned
        turn.journal.append(b"id: %d\n\n" % (number + 1), 1)
    await turn.done()
    assert (await record_of(other, claim, turn.id)).state == DONE


async def test_its_old_owner_writes_no_more(fleet: TurnFleet) -> None:
    """It was only stopped: it comes back, and is fenced off."""
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k", session="s")
    turn = await resumable(store, claim, b"id: 1\n\n")
    await fleet.acknowledged(turn)
    await turn.orphan()
    taken = await other.take_over(fleet.claim(), turn.id)
    assert taken is not None
    for write in (turn.done, turn.orphan, lambda: turn.lost("backend")):
        with pytest.raises(Fenced):
            await write()
    with pytest.raises(Fenced):
        await turn.headed(b"late", is_stream=True)
    record = await record_of(other, claim, turn.id)
    assert (record.state, record.head, record.last) == (RUNNING, HEAD, 0)
    await taken.owned.done()


async def test_an_owner_that_has_left_does_not_renew_its_turn(valkey_url: str) -> None:
    """It may be looking at it in the same moment."""
    fleet = ValkeyFleet(valkey_url)
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await resumable(store, claim)
    assert isinstance(turn, StoredOwnedTurn)
    await turn.orphan()
    await turn.look()
    await orphaned(fleet, other, claim, turn.id)
    await fleet.close()


@pytest.mark.parametrize("why", ["lives", "foreign", "no path", "no head"])
async def test_what_is_not_taken_over(fleet: TurnFleet, why: str) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await own(store, claim)
    await turn.started("s1")
    if why != "no head":
        path = "" if why == "no path" else "/resume/1"
        await turn.headed(HEAD, is_stream=True, resume_path=path)
    if why == "foreign":
        await turn.orphan()
    elif why != "lives":
        await fleet.kill(0)

        async def lost() -> bool:
            return (await record_of(other, claim, turn.id)).state == LOST

        await until(lost)
    wanted = fleet.claim(principal=new_principal()) if why == "foreign" else fleet.claim()
    assert await other.take_over(wanted, turn.id) is None
    assert await other.take_over(wanted, turn.id[:16] + 26 * "a") is None


async def test_without_a_client_it_is_lost_in_the_end(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k", linger=0.1)
    turn = await resumable(store, claim)
    await turn.orphan()

    async def lost() -> bool:
        record = await record_of(other, claim, turn.id)
        return (record.state, record.reason) == (LOST, "owner_died")

    await until(lost)
    assert await other.take_over(fleet.claim(), turn.id) is None


async def test_one_without_an_owner_that_is_cancelled_is_lost(fleet: TurnFleet) -> None:
    """None can confirm that it has ended."""
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await resumable(store, claim)
    await turn.orphan()
    record = await other.cancel(claim.principal, turn.id)
    assert record is not None
    assert record.state in (CANCELLING, LOST)
    assert (await record_of(other, claim, turn.id)).state == LOST
