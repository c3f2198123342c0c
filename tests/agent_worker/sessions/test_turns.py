"""A turn: begun, committed step by step, renewed, released; and the right to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import LeaseLost, SessionFull, TurnBusy
from agent_worker.sessions import Grant, Replay, SessionStore, Summary, new_nonce
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    assistant,
    begin,
    commit,
    delta,
    event,
    finish,
    key_of,
    lose_lease,
    open_store,
    result,
    unchanged,
    user,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from agent_worker.sessions import RedisBackend
    from tests.support.agent.sessions import Backend


# Begin.


async def test_begin_keeps_the_users_message_and_hands_out_the_history(
    store: SessionStore, sid: str
) -> None:
    first = await begin(store, sid)
    assert (first.outcome, first.history, first.turn_at) == ("GRANTED", [HELLO], 0)
    assert (first.version, first.step, first.notes, first.emitted) == (2, 0, {}, "")
    view = await store.read(sid, ME)
    assert (view.status, view.messages, view.version) == ("running", [HELLO], 2)
    assert await finish(store, first) == (3, 1, 0)
    second = await begin(store, sid, "again")
    assert second.history == [HELLO, HI, user("again")]
    assert (second.turn_at, second.of_turn) == (2, [user("again")])
    assert second.lease.fence > first.lease.fence


async def test_a_message_is_kept_with_all_its_fields(store: SessionStore, sid: str) -> None:
    message = user("größer …") | {"blob": "abc", "size": 40_000}
    grant = await store.begin(sid, ME, message, nonce=new_nonce())
    assert isinstance(grant, Grant)
    assert grant.history == [message]
    assert (await store.read(sid, ME)).messages == [message]


async def test_the_fence_follows_the_servers_clock_but_never_falls(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    seconds, micros = await redis.time()
    grant = await begin(store, sid)
    assert grant.lease.fence >= int(seconds) * 1000 + int(micros) // 1000
    await finish(store, grant)
    ahead = grant.lease.fence + 10**9
    await redis.hset(key_of(sid, "meta"), "fence", str(ahead))
    assert (await begin(store, sid)).lease.fence == ahead + 1


async def test_a_second_turn_is_refused_while_one_runs(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await begin(store, sid)
    async with unchanged(backend, sid):
        with pytest.raises(TurnBusy) as refused:
            await begin(store, sid, "me too")
        assert 1 <= refused.value.retry_after_s <= 5


async def test_a_full_history_takes_no_message_more(backend: Backend) -> None:
    store = open_store(backend, max_history=200)
    sid = await store.create(ME, {})
    await finish(store, await begin(store, sid, idempotency_key="k"), assistant("x" * 200))
    async with unchanged(backend, sid):
        for policy in ("reject", "enqueue"):
            with pytest.raises(SessionFull):
                await store.begin(sid, ME, HELLO, nonce=new_nonce(), policy=policy)
    # It can still be read.
    assert (await store.read(sid, ME)).total == 2
    again = await store.begin(sid, ME, HELLO, nonce=new_nonce(), idempotency_key="k")
    assert isinstance(again, Replay)


async def test_a_full_history_counts_bytes_of_json(redis: Redis, client: RedisBackend) -> None:
    store = client.session_store()
    sid = await store.create(ME, {})
    await finish(store, await begin(store, sid, "größer"))
    texts = await redis.lrange(key_of(sid, "msgs"), 0, -1)
    size = sum(len(text.encode()) for text in texts)
    assert await redis.hget(key_of(sid, "meta"), "bytes") == str(size)
    with pytest.raises(SessionFull):
        await begin(open_store(client, max_history=size), sid)
    await begin(open_store(client, max_history=size + 1), sid)


async def test_a_turn_that_filled_the_history_itself_can_be_resumed(backend: Backend) -> None:
    store = open_store(backend, max_history=200)
    sid = await store.create(ME, {})
    await commit(store, await begin(store, sid, idempotency_key="k"), assistant("x" * 200))
    await lose_lease(backend, sid)
    heir = await begin(store, sid, idempotency_key="k")
    assert heir.outcome == "RESUME"
    await finish(store, heir)


# Commit.


async def test_a_step_is_committed_without_ending_the_turn(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid)
    version, step, waiting = await commit(store, grant, HI, HI, notes={"colour": "blue"})
    assert (version, step, waiting) == (grant.version + 1, 1, 0)
    view = await store.read(sid, ME)
    assert (view.status, view.messages) == ("running", [HELLO, HI, HI])
    await finish(store, grant, expected_version=version)
    assert (await store.read(sid, ME)).status == "idle"
    assert (await begin(store, sid)).notes == {"colour": "blue"}


async def test_the_results_of_tools_are_no_step(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid)
    version, step, _ = await commit(store, grant, assistant("", "clock"))
    assert step == 1
    version, step, _ = await commit(
        store, grant, result("clock", "noon"), expected_version=version, is_step=False
    )
    assert (version, step) == (grant.version + 2, 1)


async def test_a_commit_on_another_version_is_refused(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    grant = await begin(store, sid)
    async with unchanged(backend, sid):
        for version in (grant.version - 1, grant.version + 1):
            with pytest.raises(LeaseLost):
                await commit(store, grant, HI, expected_version=version)


async def test_a_commit_after_the_end_is_refused(store: SessionStore, backend: Backend) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    version, _, _ = await finish(store, grant)
    async with unchanged(backend, sid):
        with pytest.raises(LeaseLost):
            await commit(store, grant, HI, expected_version=version)


# The summary.


async def test_a_history_is_given_from_the_watermark_of_the_summary_on(
    store: SessionStore, sid: str
) -> None:
    await finish(store, await begin(store, sid, "one"))
    grant = await begin(store, sid, "two")
    assert grant.summary == Summary("", 0)
    await finish(store, grant, summary=Summary("they greeted", 2))
    third = await begin(store, sid, "three")
    assert third.summary == Summary("they greeted", 2)
    assert third.history == [user("two"), HI, user("three")]
    assert (third.turn_at, third.of_turn) == (4, [user("three")])
    await finish(store, third)
    # A commit without one keeps it, and the messages that it replaces are still there.
    assert (await begin(store, sid, "four")).summary == Summary("they greeted", 2)
    view = await store.read(sid, ME)
    assert view.summary == Summary("they greeted", 2)
    assert view.messages[:2] == [user("one"), HI]


async def test_a_resumed_turn_starts_from_the_summary_too(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await finish(store, await begin(store, sid, "one"))
    dead = await begin(store, sid, "two", idempotency_key="k")
    await commit(store, dead, HI, summary=Summary("they greeted", 2))
    await lose_lease(backend, sid)
    heir = await begin(store, sid, "two", idempotency_key="k")
    assert (heir.outcome, heir.summary) == ("RESUME", Summary("they greeted", 2))
    assert heir.history == heir.of_turn == [user("two"), HI]


# Renew, release.


async def test_the_lease_runs_out_unless_it_is_renewed(redis: Redis, client: RedisBackend) -> None:
    store = open_store(client, lease_s=20)
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    assert 0 < await redis.pttl(key_of(sid, "lease")) <= 20_000
    await redis.pexpire(key_of(sid, "lease"), 5_000)
    assert not await store.renew(grant.lease)
    assert 15_000 < await redis.pttl(key_of(sid, "lease")) <= 20_000


async def test_a_lease_that_ran_out_lets_the_next_turn_begin(
    client: RedisBackend, redis: Redis
) -> None:
    hasty = open_store(client, lease_s=0.001)
    sid = await hasty.create(ME, {})
    dead = await begin(hasty, sid)
    while await redis.exists(key_of(sid, "lease")):
        pass
    assert (await hasty.read(sid, ME)).status == "interrupted"
    heir = await begin(client.session_store(), sid, "go on")
    assert (heir.outcome, heir.version) == ("ORPHAN", dead.version + 1)


async def test_a_released_turn_leaves_its_message_and_lets_the_next_begin(
    store: SessionStore, sid: str
) -> None:
    grant = await begin(store, sid)
    assert await store.release(sid, ME, grant.lease.nonce) == 0
    view = await store.read(sid, ME)
    assert (view.status, view.messages) == ("interrupted", [HELLO])
    assert view.version == grant.version + 1
    with pytest.raises(LeaseLost):
        await finish(store, grant)
    heir = await begin(store, sid, "next")
    assert (heir.outcome, heir.history) == ("ORPHAN", [HELLO, user("next")])


@pytest.mark.parametrize("how", ["finished", "ran out", "taken over"])
async def test_a_turn_that_is_not_held_cannot_be_released(
    store: SessionStore, backend: Backend, how: str, sid: str
) -> None:
    grant = await begin(store, sid)
    if how == "finished":
        await finish(store, grant)
    else:
        await lose_lease(backend, sid)
    if how == "taken over":
        await begin(store, sid, "go on")
    async with unchanged(backend, sid):
        assert await store.release(sid, ME, grant.lease.nonce) is None
        assert await store.release(sid, ME, "another") is None


async def test_a_turn_whose_grant_was_never_seen_is_released_by_its_nonce(
    store: SessionStore, sid: str
) -> None:
    await store.begin(sid, ME, HELLO, nonce="worker.nonce")
    await store.begin(sid, ME, user("later"), nonce=new_nonce(), policy="enqueue")
    assert await store.release(sid, ME, "worker.nonce") == 1


# Continuations.


async def test_an_orphan_keeps_the_finished_steps_and_goes_on_behind_them(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    dead = await begin(store, sid)
    await commit(store, dead, HI)
    await store.events.append(dead.lease, [delta(dead, 1, "half a sen")])
    await lose_lease(backend, sid)
    heir = await begin(store, sid, "go on")
    assert (heir.outcome, heir.history) == ("ORPHAN", [HELLO, HI, user("go on")])
    assert (heir.step, heir.turn_at, heir.emitted) == (1, 2, "")
    await finish(store, heir)
    assert (await begin(store, sid)).outcome == "GRANTED"


async def test_resume_gives_what_the_unfinished_step_had_said(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    dead = await begin(store, sid, idempotency_key="k")
    await store.events.append(dead.lease, [delta(dead, 1, "the first step")])
    await commit(
        store, dead, HI, events=[delta(dead, 2, ", and its end"), event(dead, 3, "tool.started")]
    )
    await store.events.append(dead.lease, [delta(dead, 4, "half "), event(dead, 5, "tool.started")])
    await store.events.append(dead.lease, [delta(dead, 6, "a größer")])
    await lose_lease(backend, sid)
    heir = await begin(store, sid, idempotency_key="k")
    assert (heir.outcome, heir.history, heir.emitted) == ("RESUME", [HELLO, HI], "half a größer")
    assert (heir.step_event, heir.last_event) == (event(dead, 3).id, event(dead, 6).id)
    # The next worker gets the text of both.
    await store.events.append(heir.lease, [delta(heir, 1, " sentence")])
    await lose_lease(backend, sid)
    third = await begin(store, sid, idempotency_key="k")
    assert third.emitted == "half a größer sentence"
    assert third.step_event == heir.step_event


async def test_resume_gives_only_what_came_behind_a_rewind(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    dead = await begin(store, sid, idempotency_key="k")
    await store.events.append(dead.lease, [delta(dead, 1, "void")])
    await lose_lease(backend, sid)
    heir = await begin(store, sid, idempotency_key="k")
    rewind = event(heir, 1, "rewind", id=heir.step_event)
    await store.events.append(heir.lease, [rewind, delta(heir, 2, "anew")])
    await lose_lease(backend, sid)
    assert (await begin(store, sid, idempotency_key="k")).emitted == "anew"
