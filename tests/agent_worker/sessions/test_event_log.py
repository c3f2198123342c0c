"""The event log: its events, its writers, and its readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import LeaseLost
from agent_worker.sessions.event_log import channel, is_event_id
from tests.support.agent.sessions import (
    HI,
    ME,
    begin,
    commit,
    delta,
    event,
    expiries,
    finish,
    key_of,
    lose_lease,
    unchanged,
)
from tests.support.sse import event_order

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from agent_worker.sessions import Event, Grant, SessionStore
    from tests.support.agent.sessions import Backend


async def say(store: SessionStore, grant: Grant, *numbers: int) -> list[Event]:
    """Put a delta under each number into the log."""
    events = [delta(grant, number, f"word {number}") for number in numbers]
    await store.events.append(grant.lease, events)
    return events


async def logged(redis: Redis, sid: str) -> list[str]:
    return [entry for entry, _ in await redis.xrange(key_of(sid, "ev"))]


# Append.


async def test_what_was_appended_is_read_behind_any_of_it(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid)
    events = await say(store, grant, 1, 2)
    events += await say(store, grant, 3)
    page = await store.events.page(sid, ME, None)
    assert (page.status, page.last, page.is_trimmed) == ("running", events[-1].id, False)
    assert (page.after, page.events) == (f"{grant.lease.fence}-0", events)
    for place, known in enumerate(events):
        page = await store.events.page(sid, ME, known.id)
        assert (page.after, page.events) == (known.id, events[place + 1 :])


async def test_a_commit_logs_its_events(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid)
    events = await say(store, grant, 1)
    events += [event(grant, 2, "tool.started", tool="clock"), event(grant, 3, "done")]
    await finish(store, grant, events=events[1:])
    page = await store.events.page(sid, ME, events[0].id)
    assert (page.status, page.events) == ("idle", events[1:])
    assert (await store.read(sid, ME)).last_event == events[-1].id


async def test_ids_grow_strictly_from_turn_to_turn(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    for content in ("one", "two"):
        grant = await begin(store, sid, content)
        await say(store, grant, 1, 2)
        await finish(store, grant, events=[event(grant, 3, "done")])
    dead = await begin(store, sid, "three", idempotency_key="k")
    await say(store, dead, 1, 2)
    await lose_lease(redis, sid)
    heir = await begin(store, sid, "three", idempotency_key="k")
    assert heir.last_event == event(dead, 2).id
    await say(store, heir, 1)
    order = [event_order(entry) for entry in await logged(redis, sid)]
    assert len(order) == 9
    assert order == sorted(set(order))


async def test_a_repeated_append_adds_nothing(store: SessionStore, redis: Redis, sid: str) -> None:
    grant = await begin(store, sid)
    await say(store, grant, 1, 2)
    async with unchanged(redis, sid):
        await say(store, grant, 1, 2)
    await say(store, grant, 3)
    # Even the last event's id is the same.
    async with unchanged(redis, sid):
        await say(store, grant, 1, 2)
    await say(store, grant, 2, 3, 4)
    assert len(await logged(redis, sid)) == 4


async def test_an_append_of_no_events_tells_only_whether_to_stop(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    grant = await begin(store, sid)
    async with unchanged(backend, sid):
        assert not await store.events.append(grant.lease, [])


async def test_a_zombies_events_are_refused(store: SessionStore, redis: Redis, sid: str) -> None:
    zombie = await begin(store, sid)
    await say(store, zombie, 1)
    await lose_lease(redis, sid)
    with pytest.raises(LeaseLost):
        await say(store, zombie, 2)
    heir = await begin(store, sid, "go on")
    with pytest.raises(LeaseLost):
        await say(store, zombie, 3)
    with pytest.raises(LeaseLost):
        await commit(store, zombie, HI, events=[delta(zombie, 4, "!")])
    await finish(store, heir)
    with pytest.raises(LeaseLost):
        await say(store, heir, 1)
    assert await logged(redis, sid) == [event(zombie, 1).id]


async def test_the_log_refuses_an_old_id_whatever_the_lease_says(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    zombie = await begin(store, sid)
    await lose_lease(redis, sid)
    heir = await begin(store, sid, "go on")
    await say(store, heir, 1)
    await redis.set(key_of(sid, "lease"), zombie.lease.value)
    await say(store, zombie, 1)
    assert await logged(redis, sid) == [event(heir, 1).id]


async def test_a_log_that_is_new_expires_with_its_session(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    await say(store, grant, 1)
    times = await expiries(redis, sid)
    assert times["ev"] == times["meta"] > 0


# Read.


async def test_without_a_place_the_turn_that_runs_is_read_from_its_beginning(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    first = await begin(store, sid)
    await say(store, first, 1)
    await finish(store, first, events=[event(first, 2, "done")])
    assert (await store.events.page(sid, ME, None)).events == [], "it is over"
    second = await begin(store, sid, idempotency_key="k")
    page = await store.events.page(sid, ME, None)
    assert (page.status, page.events, page.is_trimmed) == ("running", [], False)
    events = await say(store, second, 1)
    await lose_lease(backend, sid)
    heir = await begin(store, sid, idempotency_key="k")
    events += await say(store, heir, 1)
    page = await store.events.page(sid, ME, None)
    assert page.events == events, "also what its worker before this one said"


async def test_a_turn_whose_first_workers_said_nothing_is_read_from_its_beginning_too(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    await begin(store, sid, idempotency_key="k")
    beginning = (await store.events.page(sid, ME, None)).after
    for _ in range(2):
        await lose_lease(redis, sid)
        heir = await begin(store, sid, idempotency_key="k")
    events = await say(store, heir, 1, 2)
    for after in (None, beginning):
        page = await store.events.page(sid, ME, after)
        assert (page.is_trimmed, page.after, page.events) == (False, beginning, events)
    # These are then the turn's first events, on any worker.
    await lose_lease(redis, sid)
    events += await say(store, await begin(store, sid, idempotency_key="k"), 1)
    assert (await store.events.page(sid, ME, beginning)).events == events
    await redis.xtrim(key_of(sid, "ev"), maxlen=2, approximate=False)
    assert (await store.events.page(sid, ME, beginning)).is_trimmed


async def test_a_turn_begun_by_another_is_read_from_the_end_of_the_last(
    store: SessionStore, sid: str
) -> None:
    first = await begin(store, sid)
    done = event(first, 1, "done")
    await finish(store, first, events=[done])
    second = await begin(store, sid)
    events = await say(store, second, 1, 2)
    page = await store.events.page(sid, ME, done.id)
    assert (page.status, page.events) == ("running", events)


async def test_a_session_without_events_has_nothing_behind_any_place(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    for after in (None, "0-0", "1-1"):
        page = await store.events.page(sid, ME, after)
        assert (page.status, page.last, page.events) == ("idle", "0-0", [])
        assert not page.is_trimmed


async def test_a_long_log_is_read_in_pages(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid)
    events = await say(store, grant, *range(1, 1101))
    pages, after = [], None
    while page := (await store.events.page(sid, ME, after)).events:
        pages.append(page)
        after = page[-1].id
    assert [len(page) for page in pages] == [500, 500, 100]
    assert [each for page in pages for each in page] == events


# Expired events.


async def test_behind_an_event_that_was_trimmed_some_may_be_missing(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    events = await say(store, grant, 1, 2, 3)
    await redis.xtrim(key_of(sid, "ev"), maxlen=2, approximate=False)
    page = await store.events.page(sid, ME, events[0].id)
    assert (page.is_trimmed, page.events, page.last) == (True, [], events[2].id)
    assert (await store.events.page(sid, ME, None)).is_trimmed
    page = await store.events.page(sid, ME, events[1].id)
    assert (page.is_trimmed, page.events) == (False, [events[2]])


async def test_behind_an_event_that_never_was_some_may_be_missing(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    await say(store, grant, 1, 3)
    assert (await store.events.page(sid, ME, event(grant, 2).id)).is_trimmed
    assert not (await store.events.page(sid, ME, event(grant, 4).id)).is_trimmed


async def test_a_log_that_expired_is_missing_but_for_who_had_all_of_it(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    events = await say(store, grant, 1, 2)
    await finish(store, grant)
    await redis.delete(key_of(sid, "ev"))
    assert (await store.events.page(sid, ME, events[0].id)).is_trimmed
    page = await store.events.page(sid, ME, events[1].id)
    assert (page.is_trimmed, page.events, page.last) == (False, [], events[1].id)


async def test_after_a_turn_about_two_thousand_events_are_kept(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    await say(store, grant, *range(1, 3001))
    assert await redis.xlen(key_of(sid, "ev")) == 3000
    await finish(store, grant)
    # Whole nodes of the stream are trimmed; one has 100 entries at most.
    assert 2000 <= await redis.xlen(key_of(sid, "ev")) < 2100
    assert (await logged(redis, sid))[-1] == event(grant, 3000).id


# Notifications.


async def test_a_bell_rings_when_something_came_and_when_the_turn_ends(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(channel(sid))

        async def heard() -> str:
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
                if message is not None:
                    return str(message["data"])

        await say(store, grant, 1)
        assert await heard() == "events"
        await finish(store, grant)
        assert await heard() == "ended"
        again = await begin(store, sid)
        await store.release(sid, ME, again.lease.nonce)
        assert await heard() == "ended"
        await store.delete(sid, ME)
        assert await heard() == "ended"


# One turn.


async def test_an_error_that_another_try_of_the_turn_followed_has_not_ended_it(
    store: SessionStore, sid: str
) -> None:
    grant = await begin(store, sid, idempotency_key="k")
    turn = str(grant.lease.fence)
    failed = [delta(grant, 1, "so far"), event(grant, 2, "error")]

    async def ended_by() -> tuple[str, str]:
        page = await store.events.of_turn(sid, ME, turn, None)
        assert page.events[:2] == failed
        return page.state, page.ended_by

    await store.events.append(grant.lease, failed)
    assert await ended_by() == ("ended", failed[1].id)
    await store.release(sid, ME, grant.lease.nonce)
    heir = await begin(store, sid, idempotency_key="k")
    assert await ended_by() == ("held", "")
    await say(store, heir, 1)
    assert await ended_by() == ("held", "")
    done = event(heir, 2, "done")
    await finish(store, heir, events=[done])
    assert await ended_by() == ("ended", done.id)
    await begin(store, sid, "next")
    assert await ended_by() == ("ended", done.id)


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-1-1", "a-1", "1-1\n", "1" * 16 + "-1", "\u0661-\u0661"]
)
def test_what_is_no_events_id(text: str) -> None:
    assert not is_event_id(text)


def test_an_events_id() -> None:
    assert is_event_id("1700000000000-12")
