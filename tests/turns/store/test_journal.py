"""The journal of an owner, on a real server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from hermes_lb.turns.ports import HIGH_WATER, End, Fenced, StoreAway
from hermes_lb.turns.store import journal as journal_module
from hermes_lb.turns.store.journal import StoredJournal
from hermes_lb.turns.store.journals import Kept
from hermes_lb.turns.store.topology import OneServer
from tests.agent_worker.redis.topologies import ask
from tests.support.loops import on_both_loops
from tests.support.waiting import until
from tests.turns.store.rig import CLEAN, Turn, claim, contents

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_worker.redis_server import RedisServer
    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.stored_journals import StoredJournals
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.turns.store.conftest import Connected

    Journals = Callable[[StoreClient], StoredJournals]


@on_both_loops
async def test_events_become_batches_and_an_end(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    turn = Turn(journals(client))
    turn.append()
    turn.append(2)
    await until(lambda: not turn.journal.unacknowledged)
    turn.append()
    assert await turn.journal.finish(CLEAN) == Kept(1, 4, len(turn.written))
    entries = await client.ask(turn.keys[1], "XRANGE", turn.keys[1], "-", "+")
    assert [entry[0] for entry in entries] == [b"1-3", b"1-4", b"2-0"]
    assert entries[0][1] == [b"e", b"3", b"d", turn.written.rpartition(b"data: 4")[0]]
    assert entries[2][1] == [b"end", b"1", b"reason", b""]


async def test_what_arrives_together_leaves_in_one_write(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    turns = [Turn(written := journals(connected(link.url))) for _ in range(1)]
    turns += [Turn(written) for _ in range(39)]
    for _ in range(3):
        for turn in turns:
            turn.append()
    await until(lambda: not any(turn.journal.unacknowledged for turn in turns))
    assert link.commands["EVALSHA"] == 1  # with a batch of each
    assert link.accepted == 1


async def test_an_end_can_be_repeated(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    client = connected(link.url)
    turn = Turn(journals(client))
    turn.append(2)
    link.lose_replies(journal_module._FINISH.sha)
    kept = await turn.journal.finish(End(False, "backend"))
    assert kept == await turn.journal.finish(End(False, "backend")) == Kept(1, 2, len(turn.written))
    assert await client.ask(turn.keys[1], "XLEN", turn.keys[1]) == 2


async def test_all_keys_expire(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    written = journals(client)

    async def lives(turn: Turn) -> list[int]:
        return [await client.ask(key, "PTTL", key) for key in turn.keys]

    turn = Turn(written, keep=100.0, keep_events=7.0)
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert [600_000 < life <= 700_000 for life in await lives(turn)] == [True, True]
    turn.journal.skip()  # the stream is a new key behind it
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert [600_000 < life <= 700_000 for life in await lives(turn)] == [True, True]
    await turn.journal.finish(CLEAN)
    assert [5_000 < life <= 7_000 for life in await lives(turn)] == [True, True]
    # A response that is no event stream lives as long as its turn.
    turn = Turn(written, keep=100.0, keep_events=7.0)
    turn.journal.is_stream = False
    await turn.journal.finish(CLEAN)
    assert [95_000 < life <= 100_000 for life in await lives(turn)] == [True, True]
    # A follower that was first, and a fence.
    turn = Turn(written)
    reading = turn.follow(written).reading
    wait = asyncio.ensure_future(reading.next())  # noqa: TID251
    await until(lambda: _exists(client, turn.keys[0]))
    assert 0 < (await lives(turn))[0] <= 80_000
    wait.cancel()
    reading.close()
    await written.fence_off(turn.id, "another")
    assert 86_000_000 < (await lives(turn))[0] <= 86_400_000
    # The events of a dead owner live as long as those of an end.
    turn = Turn(written, keep=100.0, keep_events=7.0)
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    await written.fence_off(turn.id, "another")
    own, events = await lives(turn)
    assert own > 86_000_000
    assert 5_000 < events <= 7_000


async def test_a_silent_journal_is_renewed(
    valkey: RedisServer, connected: Connected, journals: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.writer._RENEWED", 0.0)
    client = connected(valkey.url)
    turn = Turn(journals(client))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    for key in turn.keys:
        await client.ask(key, "PEXPIRE", key, 5_000)

    async def is_renewed() -> bool:
        return all([await client.ask(key, "PTTL", key) > 600_000 for key in turn.keys])

    await until(is_renewed)


async def test_a_fenced_owner_is_refused(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    written = journals(client)
    turn = Turn(written)
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    await written.fence_off(turn.id, "another")
    turn.append()
    await turn.watcher.refused.wait()
    assert turn.journal.unacknowledged == 0
    turn.append()
    with pytest.raises(Fenced):
        await turn.journal.finish(CLEAN)
    assert await client.ask(turn.keys[1], "XLEN", turn.keys[1]) == 1
    assert (await contents(client, turn))["nonce"] == "another"
    assert not written._writer._open


async def test_an_end_is_refused_too(written: StoredJournals) -> None:
    turn = Turn(written)
    await written.fence_off(turn.id, "another")
    with pytest.raises(Fenced):
        await turn.journal.finish(CLEAN)
    assert turn.watcher.refused.is_set()


async def test_nothing_is_appended_behind_the_end(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    turn = Turn(journals(client))
    turn.append()
    await turn.journal.finish(CLEAN)
    turn.append()
    await turn.watcher.refused.wait()
    assert await client.ask(turn.keys[1], "XLEN", turn.keys[1]) == 2


async def test_the_window_has_the_last_events(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    turn = Turn(journals(client), journal_size=2000)
    for _ in range(50):
        turn.append(size=90)
    kept = await turn.journal.finish(CLEAN)
    assert turn.journal.is_trimmed
    assert kept.last == 50
    assert 2000 - 250 < kept.size <= 2000
    entries = await client.ask(turn.keys[1], "XRANGE", turn.keys[1], "-", "+")
    first, _ = entries[0]
    assert int(first[2:]) - int(entries[0][1][1]) + 1 == kept.first
    assert sum(len(fields[3]) for _, fields in entries[:-1]) == kept.size


async def test_a_window_smaller_than_an_event(written: StoredJournals) -> None:
    turn = Turn(written, journal_size=50)
    turn.append(size=10)
    turn.append(size=90)
    assert await turn.journal.finish(CLEAN) == Kept(0, 2, 0)


async def test_the_window_begins_behind_an_event_that_is_skipped(written: StoredJournals) -> None:
    turn = Turn(written)
    turn.append(2)
    turn.journal.skip()
    assert turn.journal.is_trimmed
    turn.journal.append(b"data: 4\n\n", 1)
    assert await turn.journal.finish(CLEAN) == Kept(4, 4, 9)


async def test_a_lost_reply_and_a_lost_connection(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    turn = Turn(journals(connected(link.url)))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    link.lose_replies("EVALSHA")
    turn.append(3)
    await until(lambda: not turn.journal.unacknowledged)
    link.cut()
    turn.append(1)
    assert await turn.journal.finish(CLEAN) == Kept(1, 5, len(turn.written))


async def test_a_server_that_has_forgotten_the_script(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    turn = Turn(journals(connected(valkey.url)))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    ask(valkey.port, "SCRIPT", "FLUSH")
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert await turn.journal.finish(CLEAN) == Kept(1, 2, len(turn.written))


async def test_a_store_that_has_lost_all_is_a_gap(
    valkey: RedisServer, connected: Connected, journals: Journals
) -> None:
    client = connected(valkey.url)
    turn = Turn(journals(client))
    turn.append(2)
    await until(lambda: not turn.journal.unacknowledged)
    await client.ask(turn.keys[0], "DEL", *turn.keys)
    turn.append(1)
    await until(lambda: not turn.journal.unacknowledged)
    assert turn.journal.is_trimmed
    assert (await turn.journal.finish(CLEAN))[:2] == (3, 3)
    turn = Turn(journals(client))
    turn.append(2)
    await until(lambda: not turn.journal.unacknowledged)
    await client.ask(turn.keys[0], "DEL", *turn.keys)
    assert await turn.journal.finish(CLEAN) == Kept(0, 2, 0)


async def test_what_a_failover_has_lost_is_sent_again(
    valkey: RedisServer, connected: Connected, journals: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneServer, "has_failover", True)
    client = connected(valkey.url)
    turn = Turn(journals(client))
    turn.append(2)
    await until(lambda: not turn.journal.unacknowledged)
    replica = [await client.ask(key, "DUMP", key) for key in turn.keys]
    for _ in range(2):
        turn.append(2)
        await until(lambda: not turn.journal.unacknowledged)
    for key, content in zip(turn.keys, replica, strict=True):  # it is promoted
        await client.ask(key, "RESTORE", key, 60_000, content, "REPLACE")
    turn.append(1)
    await until(lambda: not turn.journal.unacknowledged)
    assert await turn.journal.finish(CLEAN) == Kept(1, 7, len(turn.written))
    found = await client.ask(turn.keys[1], "XRANGE", turn.keys[1], "-", "(2")
    assert b"".join(fields[3] for _, fields in found) == turn.written


class RecordingWriter:
    """Of a journal whose commands and replies the test passes on."""

    publish = "PUBLISH"

    def __init__(self, client: StoreClient) -> None:
        self.client = client
        self.added = 0

    def add(self, journal: StoredJournal) -> None:
        self.added += 1


async def test_all_is_sent_again_after_the_last_reply_behind_a_failure(
    valkey: RedisServer, connected: Connected
) -> None:
    writer = RecordingWriter(connected(valkey.url))
    journal = StoredJournal("turn", "nonce", claim(journal_size=80), cast("Any", writer))
    for number in range(3):
        journal.append(b"<%d>67890" % number, 1)
    assert len(journal.unsent()) == 3
    writer.added = 0
    journal.failed()
    journal.acknowledged(0, 0.0)
    assert writer.added == 0
    assert journal.unsent() == []  # a reply is due
    journal.acknowledged(0, 0.0)
    assert writer.added == 1
    assert [last for _, last, _ in journal.unsent()] == [3]


async def test_a_store_that_hangs_is_left_and_the_journal_goes_on(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    turn = Turn(journals(connected(link.url)))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    link.go_mute()
    turn.append(2)
    await until(lambda: link.accepted >= 2)  # it has hung up, and tries again
    link.speak()
    await until(lambda: not turn.journal.unacknowledged)
    assert await turn.journal.finish(CLEAN) == Kept(1, 3, len(turn.written))


async def test_an_end_is_not_waited_for_longer_than_the_patience(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    turn = Turn(journals(connected(link.url, patience=0.2)))
    turn.append()
    link.refuses = True
    link.cut()
    with pytest.raises(StoreAway):
        await turn.journal.finish(CLEAN)
    link.refuses = False

    async def is_finished() -> bool:
        try:
            return await turn.journal.finish(CLEAN) == Kept(1, 1, len(turn.written))
        except StoreAway:
            return False

    await until(is_finished)


async def test_a_slow_store_pauses_the_owner_and_then_lets_it_go_on(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    turn = Turn(journals(connected(link.url)))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    link.go_mute()
    while turn.journal.unacknowledged <= HIGH_WATER:
        assert not turn.watcher.behind.is_set()
        turn.append(size=10_000)
    assert turn.watcher.behind.is_set()
    assert isinstance(turn.journal, StoredJournal)
    assert turn.journal.is_slow
    link.speak()
    await turn.watcher.caught_up.wait()
    assert not turn.journal.is_slow
    assert await turn.journal.finish(CLEAN) == Kept(1, turn.last, len(turn.written))
    assert not turn.journal.is_trimmed


async def test_a_journal_that_does_not_drain_is_given_up_to_here(
    link: DroppingProxy,
    connected: Connected,
    journals: Journals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "_GIVE_UP", 0.05)
    turn = Turn(journals(connected(link.url)))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    link.refuses = True
    link.cut()

    def gave_up() -> bool:
        turn.append(size=10_000)
        return turn.watcher.caught_up.is_set()

    await until(gave_up)
    assert turn.journal.is_trimmed
    assert turn.journal.unacknowledged == 0
    behind = turn.last
    link.refuses = False
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert (await turn.journal.finish(CLEAN))[:2] == (behind + 1, behind + 1)


async def test_acknowledgements_of_what_was_given_up(
    link: DroppingProxy,
    connected: Connected,
    journals: Journals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "_GIVE_UP", 0.0)
    turn = Turn(journals(connected(link.url)))
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    link.go_mute()
    turn.append(size=20_000)
    seen = link.commands["EVALSHA"]
    await until(lambda: link.commands["EVALSHA"] > seen)  # it is in flight
    while not turn.watcher.caught_up.is_set():
        turn.append(size=50_000)
    turn.append(size=1_000)
    held = turn.journal.unacknowledged
    assert 1_000 < held < 1_100
    link.speak()
    await until(lambda: not turn.journal.unacknowledged)
    assert (await turn.journal.finish(CLEAN))[:2] == (turn.last, turn.last)


async def test_a_server_that_does_not_pause_costs_a_bounded_memory(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    turn = Turn(journals(connected(link.url)))
    assert isinstance(turn.journal, StoredJournal)
    link.refuses = True
    link.cut()
    for _ in range(400):
        turn.append(size=10_000)
        assert turn.journal.unacknowledged <= 4 * HIGH_WATER + 11_000
        held = [data for _, _, data in turn.journal._outbox._queue]
        pending = turn.journal._pending
        held += [pending] if isinstance(pending, bytes) else pending
        assert sum(map(len, held)) == turn.journal.unacknowledged
    assert turn.journal.is_trimmed


async def _exists(client: StoreClient, key: str) -> bool:
    return bool(await client.ask(key, "EXISTS", key))
