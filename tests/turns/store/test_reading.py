"""Followers of a journal, on a real server."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.turns.ports import End, StoreAway, Trimmed
from hermes_lb.turns.states import DONE, LOST, RELEASED, RUNNING
from tests.agent_worker.redis.topologies import ask
from tests.support.loops import on_both_loops
from tests.support.waiting import until
from tests.turns.store.rig import CLEAN, Follower, Turn

if TYPE_CHECKING:
    from agent_worker.redis_server import RedisServer
    from hermes_lb.tasks import Tasks
    from hermes_lb.turns.store.stored_journals import StoredJournals
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.turns.store.conftest import Connected
    from tests.turns.store.test_journal import Journals


@on_both_loops
async def test_followers_get_the_owners_bytes_from_their_place_on(
    valkey: RedisServer, connected: Connected, journals: Journals, tasks: Tasks
) -> None:
    written, other = journals(connected(valkey.url)), journals(connected(valkey.url))
    turn = Turn(written)
    followers = [turn.follow(other, after) for after in (0, 0, 7)]
    reads = [tasks.spawn(follower.read(), name="follower") for follower in followers]
    for number in range(30):
        turn.append(1 + number % 3)
        await asyncio.sleep(0.001)
    await turn.journal.finish(CLEAN)
    assert [await read for read in reads] == [CLEAN] * 3
    assert [
        follower.data == follower.expected(after)
        for follower, after in zip(followers, (0, 0, 7), strict=True)
    ] == [True] * 3
    assert followers[0].data == turn.written


async def test_a_place_inside_a_batch(written: StoredJournals) -> None:
    turn = Turn(written)
    turn.append(10)
    await turn.journal.finish(CLEAN)
    for after in range(11):
        follower = turn.follow(written, after)
        assert await follower.read() == CLEAN
        assert follower.data == turn.written[turn.written.find(b"data: %d " % (after + 1)) :] or (
            after == 10 and not follower.data
        )


async def test_a_long_journal_is_read_in_pages(written: StoredJournals) -> None:
    turn = Turn(written)
    for _ in range(60):
        turn.append(size=15_000)
    await turn.journal.finish(CLEAN)
    follower = turn.follow(written)
    sizes = []
    while not isinstance(found := await follower.reading.next(), End):
        sizes.append(sum(len(batch.data) for batch in found))
    assert sum(sizes) == len(turn.written)
    assert max(sizes) < 2 * 64 * 1024 + 15_100


async def test_many_small_batches_are_read_in_pages(
    written: StoredJournals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.append_command._BATCH", 1)
    turn = Turn(written, journal_size=100_001)  # no other test has these terms
    for _ in range(1300):
        turn.append()
    await turn.journal.finish(CLEAN)
    follower = turn.follow(written)
    assert await follower.read() == CLEAN
    assert follower.data == turn.written
    assert follower.pages == 3


async def test_nothing_is_published_without_a_follower(
    valkey: RedisServer, connected: Connected, journals: Journals, tasks: Tasks
) -> None:
    client = connected(valkey.url)
    written = journals(client)
    turn = Turn(written)
    heard: list[bytes] = []
    await written.subscriber.listen(turn.keys[1], heard.append, 10.0)
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert not await turn.journal.is_followed()
    follower = turn.follow(written)
    read = tasks.spawn(follower.read(), name="follower")
    await until(lambda: follower.after == 1)
    assert heard == []
    assert await turn.journal.is_followed()
    turn.append()
    await until(lambda: heard)
    assert heard == [b"2"]
    await turn.journal.finish(CLEAN)
    assert await read == CLEAN
    await client.ask(turn.keys[0], "HSET", turn.keys[0], "followed", 1)
    assert not await turn.journal.is_followed()  # it has left


async def test_a_follower_wakes_without_a_look(
    link: DroppingProxy,
    valkey: RedisServer,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    turn = Turn(journals(connected(valkey.url)))
    follower = turn.follow(journals(connected(link.url)))
    read = tasks.spawn(follower.read(), name="follower")
    for _ in range(20):
        last = turn.last
        await until(lambda last=last: follower.after == last)
        turn.append()
    await turn.journal.finish(CLEAN)
    assert await read == CLEAN
    assert follower.pages == 20
    # A batch costs one read; before it a server that does not know the script, nothing yet, and
    # what came before the subscription; and each of two connections asks whether it may run any.
    assert link.commands["EVALSHA"] + link.commands["EVAL"] <= 20 + 4 + 2


async def test_what_comes_before_the_subscription_is_read(
    written: StoredJournals, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    turn = Turn(written)
    listen = written.subscriber.listen

    async def late(*args: Any) -> bool:
        turn.append()
        await until(lambda: not turn.journal.unacknowledged)
        return await listen(*args)

    monkeypatch.setattr(written.subscriber, "listen", late)
    follower = turn.follow(written)
    tasks.spawn(follower.read(), name="follower")
    await until(lambda: follower.after == 1)


async def test_what_comes_while_a_subscription_is_lost_is_read(
    link: DroppingProxy,
    valkey: RedisServer,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    turn = Turn(journals(connected(valkey.url)))
    other = journals(connected(link.url))
    follower = turn.follow(other)
    tasks.spawn(follower.read_patiently(), name="follower")
    turn.append()
    await until(lambda: follower.after == 1 and link.commands["SUBSCRIBE"])
    for _ in range(3):
        link.refuses = True
        link.cut()
        turn.append()
        await until(lambda: not turn.journal.unacknowledged)
        await until(lambda: not other.subscriber._channels[turn.keys[1]].confirmed.is_set())
        link.refuses = False
        last = turn.last
        await until(lambda last=last: follower.after == last)


async def test_lost_notifications_are_made_up_for(
    link: DroppingProxy,
    valkey: RedisServer,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 0.05)
    written, other = journals(connected(valkey.url)), journals(connected(link.url))
    other.subscriber._is_closed = True  # it never subscribes
    turn = Turn(written)
    follower = turn.follow(other)
    read = tasks.spawn(follower.read(), name="follower")
    for _ in range(5):
        turn.append()
        await until(lambda: follower.after == turn.last)
    await turn.journal.finish(CLEAN)
    assert await read == CLEAN
    assert link.commands["SUBSCRIBE"] == 0


async def test_subscriptions_are_made_again(
    link: DroppingProxy,
    valkey: RedisServer,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    written, other = journals(connected(valkey.url)), journals(connected(link.url))
    turn = Turn(written)
    followers = [turn.follow(other) for _ in range(3)]
    reads = [tasks.spawn(follower.read(), name="follower") for follower in followers]
    for _ in range(4):
        turn.append()
        await until(lambda: all(follower.after == turn.last for follower in followers))
        count = link.commands["SUBSCRIBE"]
        link.cut()
        await until(lambda count=count: link.commands["SUBSCRIBE"] > count)
    await turn.journal.finish(CLEAN)
    assert [await read for read in reads] == [CLEAN] * 3
    assert {follower.data for follower in followers} == {turn.written}


async def test_one_connection_for_all_channels_and_none_is_left(
    link: DroppingProxy, connected: Connected, journals: Journals, tasks: Tasks
) -> None:
    written = journals(connected(link.url))
    await written.subscriber.listen("another", lambda payload: None, 10.0)
    turns = [Turn(written) for _ in range(20)]
    followers = [turn.follow(written) for turn in turns for _ in range(2)]
    reads = [tasks.spawn(follower.read(), name="follower") for follower in followers]
    await until(lambda: len(written.subscriber._channels) == 21)
    for turn in turns:
        turn.append()
    await until(lambda: all(follower.after == 1 for follower in followers))
    assert link.accepted == 3  # for scripts, for the journals, for notifications
    for turn in turns:
        await turn.journal.finish(CLEAN)
    assert [await read for read in reads] == [CLEAN] * 40
    assert list(written.subscriber._channels) == ["another"]
    assert not written._writer._open
    names = [turn.keys[1] for turn in turns]
    await until(lambda: not any(ask(link.target, "PUBSUB", "NUMSUB", *names)[1::2]))


async def test_a_follower_behind_the_window_is_cut(written: StoredJournals, tasks: Tasks) -> None:
    turn = Turn(written, journal_size=1000)
    slow = turn.follow(written)
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    assert await slow.reading.next()
    for _ in range(50):
        turn.append(size=50)
    await until(lambda: not turn.journal.unacknowledged)
    with pytest.raises(Trimmed):
        await slow.reading.next()
    with pytest.raises(Trimmed):
        await turn.follow(written).reading.next()
    kept = await turn.journal.finish(CLEAN)
    late = turn.follow(written, kept.first - 1)
    assert await late.read() == CLEAN
    assert late.data == late.expected(kept.first - 1)
    with pytest.raises(Trimmed):
        await turn.follow(written, kept.first - 2).reading.next()


async def test_a_follower_that_is_ahead_waits(written: StoredJournals, tasks: Tasks) -> None:
    turn = Turn(written)
    turn.append(2)
    await until(lambda: not turn.journal.unacknowledged)
    follower = turn.follow(written, 4)
    read = tasks.spawn(follower.read(), name="follower")
    turn.append(1)
    await until(lambda: not turn.journal.unacknowledged)
    turn.append(2)
    await turn.journal.finish(CLEAN)
    assert await read == CLEAN
    assert follower.data == follower.expected(4)


@pytest.mark.parametrize(
    ("state", "end"), [(LOST, End(False, "")), (RELEASED, End(False, "")), (DONE, None)]
)
async def test_a_journal_without_an_end(
    written: StoredJournals, tasks: Tasks, state: int, end: End | None
) -> None:
    """Its owner has died, its turn was never sent, or its events have expired."""
    turn = Turn(written)
    follower = turn.follow(written)
    if state == LOST:
        turn.append(3)
        await until(lambda: not turn.journal.unacknowledged)
    turn.state = state
    if end is None:
        with pytest.raises(Trimmed):
            await follower.read()
    else:
        assert await follower.read() == end
    assert follower.data == turn.written


async def test_a_fence_wakes_followers(
    written: StoredJournals, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    turn = Turn(written)
    follower = turn.follow(written)
    read = tasks.spawn(follower.read(), name="follower")
    channels = written.subscriber._channels
    # It listens, so that it waits for a notification behind the event.
    await until(lambda: channels and all(each.confirmed.is_set() for each in channels.values()))
    turn.append()
    await until(lambda: follower.after == 1 and follower.reading._is_at_end)  # type: ignore[attr-defined]
    turn.state = LOST
    await written.fence_off(turn.id, "another")
    assert await read == End(False, "")


async def test_a_reader_of_a_store_that_is_away(
    link: DroppingProxy, connected: Connected, journals: Journals
) -> None:
    written = journals(connected(link.url, patience=0.2))
    turn = Turn(written)
    turn.append()
    await until(lambda: not turn.journal.unacknowledged)
    follower = turn.follow(written)
    link.refuses = True
    link.cut()
    with pytest.raises(StoreAway):
        await follower.read()
    with pytest.raises(StoreAway):
        await follower.reading.next()
    link.refuses = False

    async def read() -> bool:
        try:
            return bool(await follower.reading.next())
        except StoreAway:
            return False

    await until(read)


async def test_a_read_that_failed_is_repeated_without_a_notification(
    link: DroppingProxy,
    valkey: RedisServer,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    turn = Turn(journals(connected(valkey.url)))
    client = connected(link.url)
    follower = turn.follow(journals(client))
    read = tasks.spawn(follower.read(), name="follower")
    await until(lambda: follower.reading._listens)  # type: ignore[attr-defined]
    turn.append()
    await until(lambda: follower.after == 1 and follower.reading._is_at_end)  # type: ignore[attr-defined]
    client._away_until = float("inf")
    turn.append()
    with pytest.raises(StoreAway):
        await read
    client._away_until = 0.0
    assert await follower.reading.next()


@pytest.mark.parametrize("seed", range(6))
async def test_random_schedules(
    link: DroppingProxy, connected: Connected, journals: Journals, tasks: Tasks, seed: int
) -> None:
    """Cuts, lost replies, silence and lost data: the owner's bytes, or a visible end."""
    rng = random.Random(seed)
    client = connected(link.url)
    written, other = journals(client), journals(connected(link.url))
    has_loss = seed % 2 == 1
    turns = [Turn(written, journal_size=rng.choice([4_000, 1 << 20])) for _ in range(5)]
    followers: list[tuple[Follower, int, asyncio.Task[bool]]] = []

    async def read(follower: Follower) -> bool:
        """Whether it has come to a clean end."""
        while True:
            try:
                return (await follower.read()).is_clean
            except StoreAway:
                await asyncio.sleep(0.01)
            except Trimmed:
                follower.reading.close()
                return False

    for _ in range(150):
        turn = rng.choice(turns)
        match rng.randrange(12):
            case 0 | 1 | 2 | 3 | 4 | 5:
                turn.append(rng.randint(1, 4), rng.choice([0, 0, 200]))
            case 6:
                after = rng.randint(0, turn.last)
                follower = turn.follow(rng.choice([written, other]), after)
                followers.append((follower, after, tasks.spawn(read(follower), name="follower")))
            case 7:
                link.lose_replies("EVALSHA")
            case 8 if rng.random() < 0.5:
                link.cut()
            case 9 if has_loss and rng.random() < 0.3:
                ask(link.target, "DEL", *turn.keys)
            case 10 if rng.random() < 0.2:
                ask(link.target, "SCRIPT", "FLUSH")
            case _:
                await asyncio.sleep(rng.random() * 0.01)
    for turn in turns:
        kept = None
        while kept is None:
            try:
                kept = await turn.journal.finish(CLEAN)
            except StoreAway:
                await asyncio.sleep(0.01)
        assert kept.last == turn.last
        turn.state = DONE
    clean = 0
    for follower, after, task in followers:
        if await task:
            clean += 1
            assert follower.after == max(after, follower._turn.last)
        assert follower.data == follower.expected(after)
    assert clean
    assert turns[0].state != RUNNING


async def test_followers_at_one_place_share_a_read(
    written: StoredJournals,
    link: DroppingProxy,
    connected: Connected,
    journals: Journals,
    tasks: Tasks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes_lb.turns.store.reading._LOOK", 3600.0)
    turn = Turn(written)
    other = journals(connected(link.url))
    followers = [turn.follow(other) for _ in range(50)]
    reads = [tasks.spawn(follower.read(), name="follower") for follower in followers]

    async def all_have(last: int) -> None:
        await until(lambda: all(follower.after == last for follower in followers))

    channels = other.subscriber._channels
    await until(lambda: any(len(each.callbacks) == 50 for each in channels.values()))
    await until(lambda: all(each.confirmed.is_set() for each in channels.values()))
    turn.append()
    await all_have(1)
    before = link.commands["EVALSHA"]
    for number in range(2, 6):
        turn.append()
        await all_have(number)
    assert link.commands["EVALSHA"] - before <= 8
    # One that leaves while it waits for a shared read takes it from no other.
    turn.append()
    reads.pop().cancel()
    followers.pop()
    await all_have(6)
    await turn.journal.finish(CLEAN)
    assert [await read for read in reads] == [CLEAN] * 49
