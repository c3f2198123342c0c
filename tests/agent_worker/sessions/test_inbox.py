"""Messages that arrive while a turn runs: queued for the next turn, or interrupting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import InboxFull
from agent_worker.sessions import Grant, Nothing, Queued, Replay, SessionStore, new_nonce
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    assistant,
    begin,
    commit,
    delta,
    finish,
    key_of,
    lose_lease,
    open_store,
    take_waiting,
    unchanged,
    user,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tests.support.agent.sessions import Backend


async def enqueue(
    store: SessionStore, sid: str, content: str, key: str | None = None, *, nonce: str = ""
) -> object:
    return await store.begin(
        sid,
        ME,
        user(content),
        nonce=nonce or new_nonce(),
        idempotency_key=key,
        policy="enqueue",
    )


# Enqueue.


async def test_a_message_waits_while_a_turn_runs(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid)
    assert await enqueue(store, sid, "one") == Queued(1)
    assert await enqueue(store, sid, "two") == Queued(2)
    view = await store.read(sid, ME)
    assert (view.messages, view.waiting, view.version) == ([HELLO], 2, grant.version)
    version, _, waiting = await commit(store, grant, HI)
    assert waiting == 2
    assert (await finish(store, grant, expected_version=version))[2] == 2


async def test_a_message_that_need_not_wait_begins_its_turn(store: SessionStore, sid: str) -> None:
    grant = await enqueue(store, sid, "hello")
    assert isinstance(grant, Grant)
    assert (grant.outcome, grant.history) == ("GRANTED", [HELLO])


async def test_what_waits_opens_the_next_turn_in_order(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    for content in ("one", "two", "three"):
        await enqueue(store, sid, content)
    await finish(store, grant)
    following = await take_waiting(store, sid)
    assert following.outcome == "GRANTED"
    assert following.of_turn == [user("one"), user("two"), user("three")]
    assert following.version == grant.version + 2
    assert not await redis.exists(key_of(sid, "inbox"))
    assert (await store.read(sid, ME)).waiting == 0


async def test_what_waits_comes_before_the_message_of_who_begins(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    await enqueue(store, sid, "one")
    await store.release(sid, ME, grant.lease.nonce)
    following = await begin(store, sid, "two")
    assert following.outcome == "ORPHAN"
    assert following.of_turn == [user("one"), user("two")]


async def test_without_anything_that_waits_there_is_nothing_to_begin(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await finish(store, await begin(store, sid))
    async with unchanged(backend, sid):
        assert isinstance(await store.begin(sid, ME, None, nonce=new_nonce()), Nothing)


async def test_the_inbox_has_an_end(backend: Backend) -> None:
    store = open_store(backend, max_waiting=2)
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    await enqueue(store, sid, "one", "k1")
    await enqueue(store, sid, "two")
    async with unchanged(backend, sid):
        with pytest.raises(InboxFull):
            await enqueue(store, sid, "three", "k3")
    assert await enqueue(store, sid, "one", "k1") == Queued(2), "it waits already"
    await finish(store, grant)
    await finish(store, await take_waiting(store, sid))
    assert isinstance(await enqueue(store, sid, "three", "k3"), Grant)


# Keys of queued messages.


async def test_a_repeated_key_waits_once(store: SessionStore, backend: Backend, sid: str) -> None:
    await begin(store, sid)
    await enqueue(store, sid, "one", "k")
    async with unchanged(backend, sid):
        assert await enqueue(store, sid, "one", "k") == Queued(1)


async def test_a_key_that_waits_begins_the_turn_when_it_comes_again(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    await enqueue(store, sid, "one")
    await enqueue(store, sid, "two", "k")
    await finish(store, grant)
    following = await begin(store, sid, "two", idempotency_key="k")
    assert following.of_turn == [user("one"), user("two")]


async def test_all_keys_of_what_waited_are_done_with_its_turn(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    await enqueue(store, sid, "one", "k1")
    await enqueue(store, sid, "two", "k2")
    await finish(store, grant)
    following = await begin(store, sid, "three", idempotency_key="k3")
    await finish(store, following, assistant("to all of you"))
    for content, key in (("one", "k1"), ("two", "k2"), ("three", "k3")):
        replay = await enqueue(store, sid, content, key)
        assert isinstance(replay, Replay)
        assert replay.answer.content == "to all of you"
        assert (replay.fence, replay.answer.step) == (following.lease.fence, 2)


async def test_each_key_of_a_turn_that_was_cut_short_resumes_it(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await finish_with_waiting(store, sid, "k1", "k2")
    await take_waiting(store, sid)
    for key in ("k1", "k2", "k1"):
        await lose_lease(backend, sid)
        heir = await begin(store, sid, key, idempotency_key=key)
        assert (heir.outcome, heir.of_turn) == ("RESUME", [user("k1"), user("k2")])
    await finish(store, heir)
    for key in ("k1", "k2"):
        assert isinstance(await enqueue(store, sid, key, key), Replay)


async def test_what_waits_stays_while_a_turn_is_resumed(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await begin(store, sid, idempotency_key="k")
    await enqueue(store, sid, "later")
    await lose_lease(backend, sid)
    heir = await begin(store, sid, idempotency_key="k")
    assert (heir.outcome, heir.history) == ("RESUME", [HELLO])
    assert (await finish(store, heir))[2] == 1
    assert (await take_waiting(store, sid)).of_turn == [user("later")]


async def test_the_message_of_a_key_is_known_when_the_history_is_full(backend: Backend) -> None:
    store = open_store(backend, max_history=200)
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    await enqueue(store, sid, "one", "k")
    await finish(store, grant, assistant("x" * 200))
    assert isinstance(await enqueue(store, sid, "one", "k"), Grant)


async def finish_with_waiting(store: SessionStore, sid: str, *keys: str) -> None:
    grant = await begin(store, sid, "first")
    for key in keys:
        await enqueue(store, sid, key, key)
    await finish(store, grant)


# Interrupt.


async def test_a_turn_is_asked_to_stop_with_whatever_it_writes_next(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    assert not await store.renew(grant.lease)
    assert not await store.events.append(grant.lease, [delta(grant, 1, "one")])
    remaining = await store.interrupt(sid, ME)
    assert remaining is not None
    assert 0 < remaining <= store.lease_s
    assert await store.renew(grant.lease)
    assert await store.events.append(grant.lease, [delta(grant, 2, "two")])
    # It is asked, not forced.
    await finish(store, grant)


async def test_its_worker_is_notified_at_once(store: SessionStore, redis: Redis, sid: str) -> None:
    worker = new_nonce()
    grant = await begin(store, sid, nonce=f"{worker}.{new_nonce()}")
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(f"hermes:worker:{worker}")
        await store.interrupt(sid, ME)
        heard = None
        while heard is None:
            heard = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
        assert heard["data"] == f"{sid} {grant.lease.value}"


async def test_where_no_turn_runs_there_is_nothing_to_stop(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    assert await store.interrupt(sid, ME) is None
    await begin(store, sid)
    await lose_lease(backend, sid)
    async with unchanged(backend, sid):
        assert await store.interrupt(sid, ME) is None


@pytest.mark.parametrize("how", ["finished", "ran out"])
async def test_the_next_turn_is_not_asked_to_stop_for_the_last_one(
    store: SessionStore, backend: Backend, how: str, sid: str
) -> None:
    grant = await begin(store, sid, idempotency_key="k")
    await store.interrupt(sid, ME)
    if how == "finished":
        await finish(store, grant)
    else:
        await lose_lease(backend, sid)
    following = await begin(store, sid, idempotency_key="k" if how == "ran out" else None)
    assert not await store.renew(following.lease)
    assert not await store.events.append(following.lease, [delta(following, 1, "one")])


async def test_of_many_that_take_what_waits_one_gets_it(store: SessionStore, sid: str) -> None:
    await finish_with_waiting(store, sid, "k1", "k2")
    taken = await asyncio.gather(
        *(store.begin(sid, ME, None, nonce=new_nonce()) for _ in range(10)),
        return_exceptions=True,
    )
    (grant,) = [each for each in taken if isinstance(each, Grant)]
    assert grant.of_turn == [user("k1"), user("k2")]
    assert (await store.read(sid, ME)).messages == grant.history
