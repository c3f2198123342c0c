"""Batches of several journals in one command: how it is packed, its limits, its replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import hiredis
import pytest

from hermes_lb.turns.ports import Fenced
from hermes_lb.turns.store.append_command import APPEND, terms_of
from hermes_lb.turns.store.journals import Kept
from hermes_lb.turns.store.lane import Lane
from tests.support.loops import on_both_loops
from tests.support.waiting import until
from tests.turns.store.rig import CLEAN, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.journal import StoredJournal
    from hermes_lb.turns.store.stored_journals import StoredJournals
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.turns.store.conftest import Connected

    Journals = Callable[[StoreClient], StoredJournals]


class RecordingLink:
    """Takes what a lane writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.takers = 0

    def send(self, packed: bytes, takers: list[object]) -> None:
        self.written.append(packed)
        self.takers += len(takers)

    def commands(self) -> list[list[Any]]:
        reader = hiredis.Reader()
        for packed in self.written:
            reader.feed(packed)
        return list(iter(reader.gets, False))


def lane_of(journals: StoredJournals, *, is_shared: bool = True) -> tuple[Lane, RecordingLink]:
    link = RecordingLink()
    return Lane(journals._writer, cast("Any", None), cast("Any", link), is_shared=is_shared), link


def put(lane: Lane, *turns: Turn) -> None:
    for turn in turns:
        lane.put(cast("StoredJournal", turn.journal))
    lane.flush()


def batches_of(command: list[Any]) -> int:
    return int(command[2]) // 2


async def test_it_is_packed_as_hiredis_packs_it(written: StoredJournals) -> None:
    turns = [Turn(written), Turn(written)]
    turns[0].append(3)
    turns[1].append(1)
    turns[1].journal.skip()
    lane, link = lane_of(written)
    put(lane, *turns)
    [found] = link.commands()
    keys = [turn.keys for turn in (turns[0], turns[1], turns[1])]
    own_one, own_two = (turn.claim.nonce for turn in turns)
    expected = hiredis.pack_command(
        (
            *("EVALSHA", APPEND.sha, 6), *(each for pair in keys for each in pair),
            *(1024 * 1024, 660_000, "PUBLISH", 30_000),
            *(own_one, f"{0:015}", f"{3:015}", turns[0].written),
            *(own_two, f"{0:015}", f"{1:015}", turns[1].written),
            *(own_two, f"{1:015}", f"{2:015}", b""),
        )
    )  # fmt: skip
    assert link.written == [expected]
    assert len(found) == 3 + 4 + 3 * 6


async def test_a_command_has_a_bounded_number_of_batches_and_bytes(written: StoredJournals) -> None:
    turns = [Turn(written) for _ in range(150)]
    for turn in turns:
        turn.append()
    lane, link = lane_of(written)
    put(lane, *turns)
    sizes = list(map(batches_of, link.commands()))
    assert sum(sizes) == 150
    assert max(sizes) <= 64
    assert link.takers == len(sizes) == 3

    big = [Turn(written) for _ in range(12)]
    for turn in big:
        turn.append(size=60_000)
    lane, link = lane_of(written)
    put(lane, *big)
    assert list(map(batches_of, link.commands())) == [5, 5, 2]
    assert max(map(len, map(repr, link.commands()))) < 400_000


async def test_journals_of_different_terms_have_commands_of_their_own(
    written: StoredJournals,
) -> None:
    small = [Turn(written, journal_size=4000) for _ in range(2)]
    body = Turn(written)
    body.journal.is_stream = False
    turns = [small[0], Turn(written), small[1], body]
    for turn in turns:
        turn.append()
    lane, link = lane_of(written)
    put(lane, *turns)
    terms = [
        tuple(map(int, command[3 + 2 * batches_of(command) :][:2])) for command in link.commands()
    ]
    assert terms == [(4000, 660_000), (1024 * 1024, 660_000), (1024 * 1024, 660_000)]
    assert list(map(batches_of, link.commands())) == [2, 1, 1]
    assert terms_of(1, 2.0, 3.0, "PUBLISH") is terms_of(1, 2.0, 3.0, "PUBLISH")


async def test_where_journals_lie_in_many_slots_each_batch_has_a_command(
    written: StoredJournals,
) -> None:
    turns = [Turn(written), Turn(written)]
    for turn in turns:
        turn.append()
    lane, link = lane_of(written, is_shared=False)
    put(lane, *turns)
    assert list(map(batches_of, link.commands())) == [1, 1]


async def test_a_journal_that_is_refused_does_not_hold_up_the_others_of_its_command(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    client = connected(link.url)
    made = journals(client)
    fenced, behind, first, window = turns = [Turn(made, journal_size=2000) for _ in range(4)]
    for turn in turns:
        turn.append()
    await until(lambda: not any(turn.journal.unacknowledged for turn in turns))
    seen = link.commands["EVALSHA"]
    await made.fence_off(fenced.id, "another")
    await client.ask(behind.keys[0], "DEL", *behind.keys)
    for turn in turns:
        turn.append()
    window.append(50, size=90)
    await until(lambda: not any(turn.journal.unacknowledged for turn in turns))
    assert fenced.watcher.refused.is_set()
    assert not any(turn.watcher.refused.is_set() for turn in (behind, first, window))
    # The fence, one command for all, and another one for the gap.
    assert link.commands["EVALSHA"] - seen <= 4
    with pytest.raises(Fenced):
        await fenced.journal.finish(CLEAN)
    assert await first.journal.finish(CLEAN) == Kept(1, 2, len(first.written))
    assert behind.journal.is_trimmed
    assert window.journal.is_trimmed
    assert not first.journal.is_trimmed


@on_both_loops
async def test_a_lost_reply_of_a_command_is_one_for_each_of_its_batches(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    made = journals(connected(link.url))
    turns = [Turn(made) for _ in range(5)]
    for turn in turns:
        turn.append()
    await until(lambda: not any(turn.journal.unacknowledged for turn in turns))
    link.lose_replies("EVALSHA")
    for turn in turns:
        turn.append(3)
    await until(lambda: not any(turn.journal.unacknowledged for turn in turns))
    for turn in turns:
        assert await turn.journal.finish(CLEAN) == Kept(1, 4, len(turn.written))


@pytest.mark.parametrize("ends", ["closed by the server", "refused"])
async def test_a_batch_that_a_lost_lane_has_not_sent_is_sent_by_the_next_lane(
    written: StoredJournals, ends: str
) -> None:
    """A placement may wait for the server of the next journal before it flushes."""
    turn, writer = Turn(written), written._writer
    journal = cast("StoredJournal", turn.journal)
    turn.append()
    await until(lambda: not journal.unacknowledged)
    lane = journal.lane
    assert lane is not None
    turn.append()
    lane.put(journal)
    if ends == "refused":
        writer.refused(lane, (), "OOM command not allowed")
    else:
        lane.link.abort()
        await writer._lane(journal.keys[0])
    assert await journal.finish(CLEAN) == Kept(1, 2, len(turn.written))
