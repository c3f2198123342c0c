"""An Idempotency-Key: its turn runs once, and its answer can be fetched again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import IdempotencyMismatch, TurnAbandoned, TurnBusy
from agent_worker.sessions import Replay, SessionStore, new_nonce
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    assistant,
    begin,
    commit,
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


async def replayed(store: SessionStore, sid: str, content: str, key: str) -> Replay:
    again = await store.begin(sid, ME, user(content), nonce=new_nonce(), idempotency_key=key)
    assert isinstance(again, Replay)
    return again


async def test_a_finished_key_is_replayed(store: SessionStore, backend: Backend, sid: str) -> None:
    grant = await begin(store, sid, idempotency_key="k")
    version, _, _ = await commit(store, grant, assistant("hi", "clock"))
    done = event(grant, 7, "done")
    await finish(
        store,
        grant,
        result("clock", "noon"),
        assistant(" there"),
        expected_version=version,
        is_final=False,
        events=[done],
    )
    await finish(store, await begin(store, sid, "another"))
    async with unchanged(backend, sid):
        replay = await replayed(store, sid, "hello", "k")
        assert (replay.fence, replay.done_event) == (grant.lease.fence, done.id)
        assert replay.messages == [
            HELLO,
            assistant("hi", "clock"),
            result("clock", "noon"),
            assistant(" there"),
        ]
        assert replay.answer.as_json() == {
            "session_id": sid,
            "step": 2,
            "content": "hi there",
            "is_final": False,
        }


async def test_a_key_is_replayed_while_another_turn_runs(store: SessionStore, sid: str) -> None:
    await finish(store, await begin(store, sid, idempotency_key="k"))
    await begin(store, sid, "another")
    assert (await replayed(store, sid, "hello", "k")).answer.content == "hi"


@pytest.mark.parametrize("state", ["running", "done", "queued"])
async def test_a_key_with_another_body_is_refused(
    store: SessionStore, backend: Backend, state: str, sid: str
) -> None:
    if state == "queued":
        await begin(store, sid, "first")
        await store.begin(sid, ME, HELLO, nonce=new_nonce(), idempotency_key="k", policy="enqueue")
    else:
        grant = await begin(store, sid, idempotency_key="k")
        if state == "done":
            await finish(store, grant)
    async with unchanged(backend, sid):
        for policy in ("reject", "enqueue"):
            with pytest.raises(IdempotencyMismatch):
                await begin(store, sid, "something else", idempotency_key="k", policy=policy)


async def test_a_fingerprint_of_the_callers_decides_instead_of_the_content(
    store: SessionStore, sid: str
) -> None:
    await finish(store, await begin(store, sid, idempotency_key="k", fingerprint="f"))
    options = {"idempotency_key": "k", "nonce": new_nonce()}
    with pytest.raises(IdempotencyMismatch):
        await store.begin(sid, ME, HELLO, fingerprint="g", **options)
    again = await store.begin(sid, ME, user("reworded"), fingerprint="f", **options)
    assert isinstance(again, Replay)


async def test_a_key_whose_turn_runs_is_asked_to_wait(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await begin(store, sid, idempotency_key="k")
    async with unchanged(backend, sid):
        for policy in ("reject", "enqueue"):
            with pytest.raises(TurnBusy):
                await begin(store, sid, idempotency_key="k", policy=policy)


async def test_an_interrupted_key_goes_on_where_it_stopped(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    dead = await begin(store, sid, idempotency_key="k")
    await commit(store, dead, HI)
    await lose_lease(backend, sid)
    heir = await begin(store, sid, idempotency_key="k")
    assert (heir.outcome, heir.history, heir.turn_at) == ("RESUME", [HELLO, HI], 0)
    assert heir.lease.fence > dead.lease.fence
    assert heir.version == dead.version + 2
    await finish(store, heir)
    assert (await store.read(sid, ME)).messages == [HELLO, HI, HI]
    assert (await replayed(store, sid, "hello", "k")).answer.content == "hihi"


async def test_a_released_key_goes_on_too(store: SessionStore, sid: str) -> None:
    grant = await begin(store, sid, idempotency_key="k")
    await store.release(sid, ME, grant.lease.nonce)
    heir = await begin(store, sid, idempotency_key="k")
    assert (heir.outcome, heir.history) == ("RESUME", [HELLO])


async def test_a_key_that_others_overtook_is_not_run_again(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await begin(store, sid, idempotency_key="k")
    await lose_lease(backend, sid)
    other = await begin(store, sid, "other")
    async with unchanged(backend, sid):
        with pytest.raises(TurnAbandoned):
            await begin(store, sid, idempotency_key="k")
    await finish(store, other)
    with pytest.raises(TurnAbandoned):
        await begin(store, sid, idempotency_key="k")


async def test_keys_are_sessions_own(store: SessionStore) -> None:
    one, other = await store.create(ME, {}), await store.create(ME, {})
    await finish(store, await begin(store, one, idempotency_key="k"))
    assert (await begin(store, other, "else", idempotency_key="k")).outcome == "GRANTED"


# Lifetimes.


async def test_keys_are_forgotten_oldest_first(redis: Redis, client: RedisBackend) -> None:
    store = open_store(client, max_idempotency_keys=3)
    sid = await store.create(ME, {})
    for number in range(4):
        await finish(store, await begin(store, sid, idempotency_key=f"k{number}"))
        # Records of the same millisecond would be equally old.
        await change_record(redis, sid, f"k{number}", at=str(number + 10**15))
    assert set(await redis.hkeys(key_of(sid, "req"))) == {"k1", "k2", "k3"}


async def test_keys_beyond_their_life_make_place_first(redis: Redis, client: RedisBackend) -> None:
    store = open_store(client, max_idempotency_keys=3, idempotency_s=1000)
    sid = await store.create(ME, {})
    for number in range(3):
        await finish(store, await begin(store, sid, idempotency_key=f"k{number}"))
    for number in range(2):
        await change_record(redis, sid, f"k{number}", at="1")
    await finish(store, await begin(store, sid, idempotency_key="k3"))
    assert set(await redis.hkeys(key_of(sid, "req"))) == {"k2", "k3"}


async def cut_short(store: SessionStore, sid: str, key: str) -> None:
    grant = await begin(store, sid, idempotency_key=key)
    await store.release(sid, ME, grant.lease.nonce)


async def test_keys_of_turns_that_were_cut_short_are_forgotten_too(
    redis: Redis, client: RedisBackend
) -> None:
    store = open_store(client, max_idempotency_keys=3)
    sid = await store.create(ME, {})
    for number in range(5):
        await cut_short(store, sid, f"k{number}")
        await change_record(redis, sid, f"k{number}", at=str(number + 10**15))
    assert set(await redis.hkeys(key_of(sid, "req"))) == {"k2", "k3", "k4"}
    heir = await begin(store, sid, idempotency_key="k4")
    assert heir.outcome == "RESUME"


async def test_keys_that_are_far_too_many_are_brought_down_to_the_most_at_once(
    redis: Redis, client: RedisBackend
) -> None:
    sid = await client.session_store().create(ME, {})
    for number in range(20):
        await cut_short(open_store(client, max_idempotency_keys=99), sid, f"k{number}")
        await change_record(redis, sid, f"k{number}", at=str(number + 10**15))
    await cut_short(open_store(client, max_idempotency_keys=3), sid, "new")
    assert set(await redis.hkeys(key_of(sid, "req"))) == {"k18", "k19", "new"}


async def test_the_keys_of_the_turn_that_runs_are_never_forgotten(
    redis: Redis, client: RedisBackend
) -> None:
    store = open_store(client, max_idempotency_keys=1, idempotency_s=1000)
    sid = await store.create(ME, {})
    running = await begin(store, sid, idempotency_key="k")
    await change_record(redis, sid, "k", at="1")
    await store.begin(
        sid, ME, user("later"), nonce=new_nonce(), idempotency_key="later", policy="enqueue"
    )
    await store.release(sid, ME, running.lease.nonce)
    heir = await begin(store, sid, idempotency_key="k")
    assert (heir.outcome, heir.history) == ("RESUME", [HELLO])
    await finish(store, heir)
    assert (await replayed(store, sid, "hello", "k")).messages == [HELLO, HI]


async def test_a_key_that_waits_is_never_forgotten(redis: Redis, client: RedisBackend) -> None:
    store = open_store(client, max_idempotency_keys=1, idempotency_s=1000)
    sid = await store.create(ME, {})
    running = await begin(store, sid)
    for number in range(3):
        content, key = user(f"m{number}"), f"k{number}"
        await store.begin(
            sid, ME, content, nonce=new_nonce(), idempotency_key=key, policy="enqueue"
        )
        await change_record(redis, sid, key, at="1")
    assert set(await redis.hkeys(key_of(sid, "req"))) == {"k0", "k1", "k2"}
    await finish(store, running)


async def change_record(redis: Redis, sid: str, key: str, **fields: str) -> None:
    record = json.loads(await redis.hget(key_of(sid, "req"), key))
    await redis.hset(key_of(sid, "req"), key, json.dumps(record | fields))
