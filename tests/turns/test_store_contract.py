"""The contract of `TurnStore`, for the store in Valkey and for the one in memory of other tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hermes_lb.turns.ports import (
    BUSY,
    JOINED,
    MISMATCH,
    OVER_QUOTA,
    OWNED,
    QUEUED,
    Fenced,
    StoreAway,
    Trimmed,
)
from hermes_lb.turns.states import CANCELLED, CANCELLING, DONE, LOST, RELEASED, RUNNING, WAITING
from tests.support.turn_fleet import (
    new_principal,
    own,
    read_all,
    record_of,
    run,
)
from tests.support.turn_watcher import Watcher
from tests.support.waiting import eventually, until

if TYPE_CHECKING:
    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.ports import OwnedTurn
    from tests.support.turn_fleet import TurnFleet


# One turn.


async def test_a_turn_from_its_begin_to_its_end(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim(key="k", fingerprint="f")
    begun = await store.begin(claim)
    assert begun.outcome == OWNED
    turn = begun.owned
    assert turn is not None
    assert begun.record is not None
    assert begun.record.id == turn.id
    assert turn.id.startswith(claim.principal[:16])
    assert (await record_of(store, claim, turn.id)).state == WAITING
    await turn.started("s7")
    record = await record_of(store, claim, turn.id)
    assert (record.state, record.server, record.fence) == (RUNNING, "s7", turn.fence)
    assert record.has_key
    await turn.headed(b"HTTP/1.1 200 OK\r\n\r\n", is_stream=True, resume_path="/r/1")
    turn.journal.append(b"data: 1\n\n", 1)
    turn.journal.append(b"data: 2\n\ndata: 3\n\n", 2)
    await turn.done()
    record = await record_of(store, claim, turn.id)
    assert record.state == DONE
    assert (record.head, record.is_stream) == (b"HTTP/1.1 200 OK\r\n\r\n", True)
    assert record.resume_path == "/r/1"
    assert (record.first, record.last, record.is_kept) == (1, 3, True)
    assert record.ended_at >= record.begun_at > 1e9
    data, end = await read_all(store.follow(record, 0))
    assert data == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert end.is_clean


async def test_a_head_has_any_bytes(fleet: TurnFleet) -> None:
    claim = fleet.claim()
    turn = await own(await fleet.at(0), claim)
    await turn.started("s1")
    head = bytes(range(256)) * 8
    await turn.headed(head, is_stream=False)
    assert (await record_of(await fleet.at(1), claim, turn.id)).head == head
    await turn.done()


async def test_an_unknown_turn_and_that_of_another_principal(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim(key="k")
    turn = await own(store, claim)
    other = new_principal()
    for principal, name in ((other, turn.id), (claim.principal, claim.principal[:16] + 26 * "a")):
        assert await store.find(principal, name) is None
        assert await store.cancel(principal, name) is None
    assert await store.find_by_key(other, "k") is None
    found = await store.find_by_key(claim.principal, "k")
    assert found is not None
    assert found.id == turn.id
    assert await store.find_by_key(claim.principal, "other") is None


async def test_principals_with_the_same_first_characters_are_different(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim()
    turn = await own(store, claim)
    other = claim.principal[:16] + new_principal()[:10]
    assert await store.find(other, turn.id) is None
    assert await store.cancel(other, turn.id) is None
    assert (await record_of(store, claim, turn.id)).state == WAITING


# The same key.


async def test_of_two_balancers_one_owns_and_the_other_joins(fleet: TurnFleet) -> None:
    stores = [await fleet.at(number) for number in range(4)]
    for number in range(5):
        key = f"key {number}"
        found = await asyncio.gather(*(store.begin(fleet.claim(key=key)) for store in stores))
        assert sorted(begun.outcome for begun in found) == [OWNED, JOINED, JOINED, JOINED]
        assert len({begun.record.id for begun in found if begun.record}) == 1
        assert [begun.owned is None for begun in found].count(False) == 1


async def test_a_duplicate_reads_the_same_bytes_and_goes_on_live(
    fleet: TurnFleet, tasks: Tasks
) -> None:
    claim = fleet.claim(key="k")
    turn = await own(await fleet.at(0), claim)
    other = await fleet.at(1)
    joined = await other.begin(fleet.claim(key="k"))
    assert joined.outcome == JOINED
    assert joined.record is not None
    reading = other.follow(joined.record, 0)
    head = tasks.spawn(reading.head(), name="head")
    await turn.started("s1")
    await turn.headed(b"head", is_stream=True)
    assert (await head).head == b"head"
    reads = tasks.spawn(read_all(reading), name="reads")
    for number in range(20):
        turn.journal.append(b"data: %d\n\n" % number, 1)
        await asyncio.sleep(0)
    await turn.done()
    data, end = await reads
    assert data == b"".join(b"data: %d\n\n" % number for number in range(20))
    assert end.is_clean


async def test_a_key_of_another_request_is_a_mismatch(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    turn = await own(store, fleet.claim(key="k"))
    # Unknown as long as its body comes.
    assert (await store.begin(fleet.claim(key="k", fingerprint="b"))).outcome == JOINED
    await turn.fingerprinted("a")
    for fingerprint, outcome in (("a", JOINED), ("b", MISMATCH), ("", JOINED)):
        begun = await store.begin(fleet.claim(key="k", fingerprint=fingerprint))
        assert begun.outcome == outcome
        assert begun.record is not None
        assert begun.record.fingerprint == "a"


@pytest.mark.parametrize("is_sent", [False, True])
async def test_a_released_key_is_free_and_its_joiners_get_the_answer(
    fleet: TurnFleet, is_sent: bool
) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    turn = await own(store, fleet.claim(key="k"))
    joined = await other.begin(fleet.claim(key="k"))
    assert joined.record is not None
    reading = other.follow(joined.record, 0)
    if is_sent:
        await turn.started("s1")
    await turn.release(b"HTTP/1.1 429 Too Many Requests\r\n\r\nlater")
    record = await reading.head()
    assert record.state == RELEASED
    assert record.head.endswith(b"later")
    assert not (await read_all(reading))[1].is_clean
    with pytest.raises(Fenced):
        await turn.headed(b"late", is_stream=False)
    again = await other.begin(fleet.claim(key="k"))
    assert again.outcome == OWNED
    assert again.record is not None
    assert again.record.id != turn.id


async def test_a_lost_turn_stays_lost(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await run(store, claim, b"data: 1\n\n")
    reading = other.follow(await record_of(other, claim, turn.id), 0)
    await turn.lost("backend")
    data, end = await read_all(reading)
    assert (data, end.is_clean, end.reason) == (b"data: 1\n\n", False, "backend")
    again = await other.begin(fleet.claim(key="k"))
    assert again.outcome == JOINED
    assert again.record is not None
    assert (again.record.state, again.record.reason) == (LOST, "backend")


async def test_a_lost_turn_is_repeated_once_after_settle(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    first = await run(store, fleet.claim(key="k", fingerprint="f"))
    await first.lost("backend")
    again = fleet.claim(key="k", fingerprint="f", repeats_lost=True, settle=0.2)
    both = await asyncio.gather(
        store.begin(again), other.begin(fleet.claim(key="k", fingerprint="f", repeats_lost=True))
    )
    assert sorted(begun.outcome for begun in both) == [QUEUED, JOINED]
    second = next(begun.owned for begun in both if begun.owned is not None)
    await second.granted()
    assert second.id != first.id
    assert second.fence > first.fence
    record = await record_of(store, again, second.id)
    assert record.attempt == 2
    assert (await record_of(store, again, first.id)).state == LOST
    await second.started("s1")
    await second.lost("backend")
    third = await store.begin(fleet.claim(key="k", fingerprint="f", repeats_lost=True))
    assert third.outcome == JOINED
    assert third.record is not None
    assert third.record.id == second.id


async def test_a_repetition_that_was_released_has_not_repeated_it(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    first = await run(store, fleet.claim(key="k", settle=0.01))
    await first.lost("backend")
    for _ in range(2):
        second = await own(store, fleet.claim(key="k", repeats_lost=True))
        await second.release(b"")
        again = await other.begin(fleet.claim(key="k"))
        assert again.record is not None
        assert (again.outcome, again.record.id) == (JOINED, first.id)


async def test_a_lost_turn_is_repeated_for_its_own_request_only(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    turn = await run(store, fleet.claim(key="k", fingerprint="f"))
    await turn.lost("backend")
    for fingerprint, outcome in (("g", MISMATCH), ("", JOINED), ("f", QUEUED)):
        claim = fleet.claim(key="k", fingerprint=fingerprint, repeats_lost=True)
        assert (await store.begin(claim)).outcome == outcome


# Transitions.


async def test_an_end_is_final(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    for end in ("done", "lost", "cancelled"):
        claim = fleet.claim()
        turn = await run(store, claim)
        await _end(turn, end)
        before = await record_of(store, claim, turn.id)
        for late in ("done", "lost", "cancelled", "release"):
            if late == end or (end, late) == ("cancelled", "release"):
                await _end(turn, late)  # a repetition
            else:
                with pytest.raises(Fenced):
                    await _end(turn, late)
        with pytest.raises(Fenced):
            await turn.started("s2")
        with pytest.raises(Fenced):
            await turn.headed(b"late", is_stream=False)
        assert await record_of(store, claim, turn.id) == before


@pytest.mark.parametrize("end", ["done", "lost"])
async def test_a_turn_that_waits_has_no_outcome(fleet: TurnFleet, end: str) -> None:
    store = await fleet.at(0)
    claim = fleet.claim()
    turn = await own(store, claim)
    with pytest.raises(Fenced):
        await _end(turn, end)
    assert (await record_of(store, claim, turn.id)).state == WAITING


# Cancellation.


async def test_a_waiting_turn_is_cancelled_at_once(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k", session="s")
    turn = await own(store, claim)
    watcher = Watcher()
    turn.watch(watcher)
    record = await other.cancel(claim.principal, turn.id)
    assert record is not None
    assert record.state == CANCELLED
    await watcher.asked_to_cancel.wait()
    with pytest.raises(Fenced):
        await turn.started("s1")
    again = await other.begin(fleet.claim(key="k"))
    assert again.record is not None
    assert (again.outcome, again.record.state) == (JOINED, CANCELLED)
    # It was never sent: its session needs no pause.
    assert (await other.begin(fleet.claim(session="s"))).outcome == OWNED


async def test_a_queued_turn_is_cancelled_in_its_queue(fleet: TurnFleet, tasks: Tasks) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    first = await own(store, fleet.claim(session="s"))
    claim = fleet.claim(session="s")
    second = await store.begin(claim)
    third = await other.begin(fleet.claim(session="s"))
    assert second.owned is not None
    assert third.owned is not None
    waits = tasks.spawn(second.owned.granted(), name="waits")
    record = await other.cancel(claim.principal, second.owned.id)
    assert record is not None
    assert record.state == CANCELLED
    with pytest.raises(Fenced):
        await waits
    await first.release(b"")
    await third.owned.granted()


async def test_the_owner_of_a_running_turn_is_asked_to_cancel_it(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await run(store, claim)
    watcher = Watcher()
    turn.watch(watcher)
    for _ in range(2):
        record = await other.cancel(claim.principal, turn.id)
        assert record is not None
        assert record.state == CANCELLING
    await watcher.asked_to_cancel.wait()
    late = Watcher()
    turn.watch(late)
    assert late.asked_to_cancel.is_set()
    turn.journal.append(b"data: 1\n\n", 1)
    await turn.cancelled()
    record = await record_of(other, claim, turn.id)
    assert record.state == CANCELLED
    data, end = await read_all(other.follow(record, 0))
    assert (data, end.is_clean) == (b"data: 1\n\n", False)
    assert await other.cancel(claim.principal, turn.id) == record


async def test_a_turn_that_was_not_sent_after_all_is_cancelled(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim(key="k")
    turn = await own(store, claim)
    await turn.started("s1")
    await store.cancel(claim.principal, turn.id)
    await turn.release(b"")
    assert (await record_of(store, claim, turn.id)).state == CANCELLED


async def test_an_end_that_was_first_wins_over_a_cancellation(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim()
    turn = await run(store, claim)
    await store.cancel(claim.principal, turn.id)
    await turn.done()
    assert (await record_of(store, claim, turn.id)).state == DONE


# Sessions.


async def test_turns_of_a_session_run_one_at_a_time_in_order(fleet: TurnFleet) -> None:
    ran: list[int] = []
    fences: list[int] = []
    open_now = 0

    async def one(number: int, turn: OwnedTurn) -> None:
        nonlocal open_now
        await turn.granted()
        open_now += 1
        assert open_now == 1
        ran.append(number)
        fences.append(turn.fence)
        await turn.started("s1")
        await asyncio.sleep(0.01)
        open_now -= 1
        await turn.done()

    waiting = []
    for number in range(9):
        store = await fleet.at(number % 3)
        begun = await store.begin(fleet.claim(session="s"))
        assert begun.owned is not None
        assert begun.outcome == (QUEUED if number else OWNED)
        waiting.append(one(number, begun.owned))
    await asyncio.gather(*reversed(waiting))
    assert ran == list(range(9))
    assert fences == sorted(set(fences))


async def test_sessions_are_independent(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    assert (await store.begin(fleet.claim(session="s"))).outcome == OWNED
    assert (await store.begin(fleet.claim(session="t"))).outcome == OWNED
    other = fleet.claim(session="s", principal=new_principal())
    assert (await store.begin(other)).outcome == OWNED


async def test_a_busy_session_rejects_turns_that_do_not_wait(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    turn = await own(store, fleet.claim(session="s"))
    for _ in range(2):
        busy = await other.begin(fleet.claim(session="s", waits=False, key="k"))
        assert (busy.outcome, busy.owned) == (BUSY, None)
        assert busy.retry_after > 0
    await turn.release(b"")
    assert (await other.begin(fleet.claim(session="s", waits=False, key="k"))).outcome == OWNED


@pytest.mark.parametrize("end", ["lost", "cancelled"])
async def test_a_session_settles_after_a_lost_or_cancelled_turn(fleet: TurnFleet, end: str) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(session="s", settle=0.4)
    turn = await run(store, claim)
    if end == "cancelled":
        await store.cancel(claim.principal, turn.id)
    waiter = await other.begin(fleet.claim(session="s"))
    assert waiter.owned is not None
    loop = asyncio.get_running_loop()
    before = loop.time()
    await _end(turn, end)
    assert (await other.begin(fleet.claim(session="s", waits=False))).outcome == BUSY
    await waiter.owned.granted()
    assert loop.time() - before >= 0.35


async def test_a_waiter_that_leaves_is_skipped(fleet: TurnFleet, tasks: Tasks) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    first = await own(store, fleet.claim(session="s"))
    second = await store.begin(fleet.claim(session="s", key="k"))
    third = await other.begin(fleet.claim(session="s"))
    assert second.owned is not None
    assert third.owned is not None
    waits = tasks.spawn(second.owned.granted(), name="waits")
    await asyncio.sleep(0.01)
    waits.cancel()
    await second.owned.release(b"")
    await first.started("s1")
    await first.done()
    await third.owned.granted()
    assert (await store.begin(fleet.claim(key="k"))).outcome == OWNED


async def test_a_joined_request_waits_in_no_queue(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    first = await own(store, fleet.claim(session="s", key="k"))
    joined = await other.begin(fleet.claim(session="s", key="k"))
    assert joined.outcome == JOINED
    waiter = await other.begin(fleet.claim(session="s"))
    assert waiter.owned is not None
    await first.started("s1")
    await first.done()
    await waiter.owned.granted()


# Deaths.


async def test_a_dead_owner_loses_what_ran_and_frees_what_waited(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    ran, waited = fleet.claim(key="ran"), fleet.claim(key="waited")
    running = await run(store, ran, b"data: 1\n\n")
    waiting = await own(store, waited)
    reading = other.follow(await record_of(other, ran, running.id), 0)
    assert await reading.next()
    await fleet.kill(0)
    end = await reading.next()
    assert not isinstance(end, list)
    assert not end.is_clean  # type: ignore[union-attr]

    async def lost() -> bool:
        return (await record_of(other, ran, running.id)).state == LOST

    async def released() -> bool:
        found = await other.find(waited.principal, waiting.id)
        return found is None or found.state == RELEASED

    await until(lost)
    await until(released)
    assert (await other.begin(fleet.claim(key="ran"))).outcome == JOINED
    assert (await other.begin(fleet.claim(key="waited"))).outcome == OWNED


async def test_a_session_goes_on_after_its_holder_and_a_waiter_died(
    fleet: TurnFleet, tasks: Tasks
) -> None:
    stores = [await fleet.at(number) for number in range(3)]
    holder = await run(stores[0], fleet.claim(session="s"))
    dead = await stores[1].begin(fleet.claim(session="s"))
    waiter = await stores[2].begin(fleet.claim(session="s"))
    assert dead.owned is not None
    assert waiter.owned is not None
    waits = tasks.spawn(waiter.owned.granted(), name="waits")
    await fleet.kill(1)
    await fleet.kill(0)
    await waits
    assert waiter.owned.fence > holder.fence


async def test_a_session_goes_on_after_the_death_of_a_turn_that_was_granted(
    fleet: TurnFleet,
) -> None:
    first = await own(await fleet.at(0), fleet.claim(session="s"))
    second = await (await fleet.at(1)).begin(fleet.claim(session="s"))
    third = await (await fleet.at(2)).begin(fleet.claim(session="s"))
    assert second.owned is not None
    assert third.owned is not None
    await first.release(b"")
    await fleet.kill(1)
    await third.owned.granted()


async def test_a_balancer_that_stops_says_so_at_once(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    ran, waited = fleet.claim(key="ran", session="s"), fleet.claim(key="waited")
    running = await run(store, ran)
    watcher = Watcher()
    running.watch(watcher)
    await own(store, waited)
    await store.close()
    record = await record_of(other, ran, running.id)
    assert (record.state, record.reason) == (LOST, "owner_stopped")
    assert (await other.begin(fleet.claim(key="waited"))).outcome == OWNED
    await watcher.refused.wait()


# Limits.


async def test_a_principal_has_a_number_of_live_turns(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    turns = [await own(store, fleet.claim(key=f"{number}")) for number in range(100)]
    full = await other.begin(fleet.claim(key="more"))
    assert (full.outcome, full.owned) == (OVER_QUOTA, None)
    assert full.retry_after > 0
    # A duplicate makes no turn.
    assert (await other.begin(fleet.claim(key="5"))).outcome == JOINED
    assert (await other.begin(fleet.claim(principal=new_principal()))).outcome == OWNED
    await turns[5].release(b"")
    assert (await other.begin(fleet.claim(key="more"))).outcome == OWNED
    assert (await other.begin(fleet.claim(key="yet more"))).outcome == OVER_QUOTA
    await asyncio.gather(*(turn.release(b"") for turn in turns if turn is not turns[5]))
    assert (await other.begin(fleet.claim(key="yet more"))).outcome == OWNED


async def test_a_session_has_a_number_of_waiters(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    await own(store, fleet.claim(session="s"))
    waiting = [await store.begin(fleet.claim(session="s")) for _ in range(16)]
    assert {begun.outcome for begun in waiting} == {QUEUED}
    assert (await store.begin(fleet.claim(session="s"))).outcome == OVER_QUOTA
    assert waiting[7].owned is not None
    await waiting[7].owned.release(b"")
    assert (await store.begin(fleet.claim(session="s"))).outcome == QUEUED


async def test_a_journal_beyond_its_size_is_a_window(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k", journal_size=1000)
    turn = await run(store, claim)
    for number in range(30):
        turn.journal.append(b"%0100d" % number, 1)
        await asyncio.sleep(0.002)
    await eventually(lambda: turn.journal.is_trimmed)
    await turn.done()
    record = await record_of(other, claim, turn.id)
    assert not record.is_kept
    assert record.last == 30
    with pytest.raises(Trimmed):
        await other.follow(record, 0).next()
    data, end = await read_all(other.follow(record, 28))
    assert data.endswith(b"%0100d" % 29)
    assert end.is_clean


async def test_the_window_begins_behind_an_event_that_is_too_long(fleet: TurnFleet) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k")
    turn = await run(store, claim, b"1", b"2")
    turn.journal.skip()
    assert turn.journal.is_trimmed
    turn.journal.append(b"4", 1)
    await turn.done()
    record = await record_of(other, claim, turn.id)
    assert (record.first, record.last, record.is_kept) == (4, 4, False)
    with pytest.raises(Trimmed):
        await other.follow(record, 2).next()
    data, end = await read_all(other.follow(record, 3))
    assert (data, end.is_clean) == (b"4", True)


async def test_events_expire_before_their_turn(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim(key="k", keep_events=0.1)
    turn = await run(store, claim, b"data: 1\n\n")
    await turn.done()

    async def expired() -> bool:
        return not (await record_of(store, claim, turn.id)).is_kept

    await until(expired)
    again = await store.begin(fleet.claim(key="k"))
    assert again.record is not None
    assert (again.outcome, again.record.state, again.record.is_kept) == (JOINED, DONE, False)


async def test_a_turn_is_forgotten_after_keep(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    claim = fleet.claim(key="k", keep=0.1, keep_events=0.1)
    turn = await run(store, claim)
    await turn.done()

    async def forgotten() -> bool:
        return await store.find(claim.principal, turn.id) is None

    await until(forgotten)
    assert (await store.begin(fleet.claim(key="k"))).outcome == OWNED


async def test_a_store_that_is_away(fleet: TurnFleet) -> None:
    store = await fleet.at(0)
    turn = await run(store, fleet.claim())
    fleet.go_away(True)
    claim = fleet.claim(key="k")
    with pytest.raises(StoreAway):
        await store.begin(claim)
    with pytest.raises(StoreAway):
        await store.find(claim.principal, turn.id)
    assert not store.is_reachable
    fleet.go_away(False)
    await until(lambda: store.is_reachable)
    assert (await store.begin(fleet.claim(key="k"))).outcome == OWNED
    await turn.done()


@pytest.mark.parametrize("end", ["done", "lost", "cancelled", "release"])
async def test_an_end_is_written_once_the_store_is_back(fleet: TurnFleet, end: str) -> None:
    store, other = await fleet.at(0), await fleet.at(1)
    claim = fleet.claim(key="k", session="s")
    turn = await run(store, claim, b"data: 1\n\n")
    waiter = await other.begin(fleet.claim(session="s"))
    assert waiter.owned is not None
    fleet.go_away(True)
    with pytest.raises(StoreAway):
        await _end(turn, end)
    fleet.go_away(False)
    await waiter.owned.granted()
    state = {"done": DONE, "lost": LOST, "cancelled": CANCELLED, "release": RELEASED}[end]
    assert (await record_of(other, claim, turn.id)).state == state


async def _end(turn: OwnedTurn, how: str) -> None:
    if how == "lost":
        await turn.lost("backend")
    elif how == "release":
        await turn.release(b"")
    else:
        await getattr(turn, how)()
