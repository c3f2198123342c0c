"""The store's operations, one by one, against a real Valkey."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from unittest.mock import AsyncMock

import pytest

from agent_worker.errors import (
    IdempotencyMismatch,
    LeaseLost,
    SessionNotFound,
    SessionTooNew,
    StoreUnavailable,
    TurnAbandoned,
    TurnBusy,
)
from agent_worker.sessions import (
    Grant,
    Replay,
    SessionStore,
    connect,
    is_session_id,
    new_nonce,
    new_session_id,
    session_keys,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer

ME, YOU = "user:me", "user:you"
HELLO = {"role": "user", "content": "hello"}
HI = {"role": "assistant", "content": "hi"}


async def begin(
    store: SessionStore, sid: str, content: str = "hello", *, key: str | None = None
) -> Grant:
    grant = await store.begin(sid, ME, content, nonce=new_nonce(), idempotency_key=key)
    assert isinstance(grant, Grant)
    return grant


async def finish(store: SessionStore, grant: Grant, *messages: dict) -> tuple[int, int]:
    return await store.commit(
        grant.lease,
        expected_version=grant.version,
        commit_id=new_nonce(),
        messages=messages or [HI],
        ends_turn=True,
    )


async def lose_lease(redis: Redis, sid: str) -> None:
    """As if the lease had run out."""
    assert await redis.delete(session_keys(sid)[1]) == 1


async def everything(redis: Redis, sid: str) -> dict[str, object]:
    """All that Redis holds of the session, to see that nothing changed."""
    readers = {"hash": redis.hgetall, "string": redis.get}
    content = {}
    for key in session_keys(sid):
        kind = await redis.type(key)
        if kind == "list":
            content[key] = await redis.lrange(key, 0, -1)
        elif kind != "none":
            content[key] = await readers[kind](key)
    return content


# Create, read, delete.


async def test_a_new_session_is_empty_and_idle(store: SessionStore) -> None:
    sid = await store.create(ME, {"title": "größer"})
    view = await store.read(sid, ME)
    assert view.as_json() == {
        "session_id": sid,
        "step": 0,
        "status": "idle",
        "messages": [],
        "metadata": {"title": "größer"},
    }
    assert view.version == 1


def test_session_ids_are_opaque_and_different() -> None:
    ids = {new_session_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_session_id(sid) for sid in ids)


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 65, "a" * 16 + "}", "a" * 16 + ":", "a" * 15 + "é", "a" * 20 + "\n"]
)
async def test_what_is_no_session_id_never_becomes_a_key(store: SessionStore, text: str) -> None:
    assert not is_session_id(text)
    with pytest.raises(SessionNotFound):
        await store.read(text, ME)


def test_all_keys_share_one_cluster_slot() -> None:
    keys = session_keys("abc")
    assert len(keys) == len(set(keys)) == 7
    assert all("{abc}" in key for key in keys)


async def test_nobody_but_the_owner_gets_anything(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    before = await everything(redis, sid)
    stolen = type(grant.lease)(sid, YOU, grant.lease.fence, grant.lease.nonce)
    commit = {"expected_version": grant.version, "commit_id": "c", "messages": [HI]}
    for attempt in (
        store.read(sid, YOU),
        store.check(sid, YOU),
        store.delete(sid, YOU),
        store.begin(sid, YOU, "hello", nonce=new_nonce()),
        store.commit(stolen, **commit),
        store.renew(stolen),
        store.release(sid, YOU, grant.lease.nonce),
    ):
        with pytest.raises(SessionNotFound):
            await attempt
    assert await everything(redis, sid) == before


async def test_an_unknown_session_is_not_found_and_not_made(
    store: SessionStore, redis: Redis
) -> None:
    sid = new_session_id()
    for attempt in (
        store.read(sid, ME),
        store.check(sid, ME),
        store.delete(sid, ME),
        store.begin(sid, ME, "hello", nonce=new_nonce()),
        store.release(sid, ME, "nonce"),
    ):
        with pytest.raises(SessionNotFound):
            await attempt
    assert await everything(redis, sid) == {}


async def test_a_session_of_a_newer_worker_is_left_alone(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    await redis.hset(session_keys(sid)[0], "schema", "2")
    with pytest.raises(SessionTooNew):
        await store.read(sid, ME)
    with pytest.raises(SessionTooNew):
        await begin(store, sid)


async def test_a_deleted_session_is_gone_and_stays_so(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    await finish(store, await begin(store, sid, key="k"))
    grant = await begin(store, sid)
    await store.delete(sid, ME)
    tombstone = await everything(redis, sid)
    assert set(tombstone) == {session_keys(sid)[0]}
    for attempt in (
        finish(store, grant),
        store.renew(grant.lease),
        store.release(sid, ME, grant.lease.nonce),
        store.read(sid, ME),
        store.begin(sid, ME, "hello", nonce=new_nonce()),
        store.delete(sid, ME),
    ):
        with pytest.raises(SessionNotFound):
            await attempt
    assert await everything(redis, sid) == tombstone
    assert await redis.pttl(session_keys(sid)[0]) > 0


# A turn.


async def test_begin_keeps_the_users_message_and_hands_out_the_history(
    store: SessionStore,
) -> None:
    sid = await store.create(ME, {})
    first = await begin(store, sid)
    assert (first.outcome, first.history, first.turn_at) == ("GRANTED", [HELLO], 0)
    view = await store.read(sid, ME)
    assert (view.status, view.messages, view.version) == ("running", [HELLO], 2)
    assert await finish(store, first) == (3, 1)
    second = await begin(store, sid, "again")
    assert second.history == [HELLO, HI, {"role": "user", "content": "again"}]
    assert second.turn_at == 2
    assert second.lease.fence > first.lease.fence


async def test_the_fence_follows_the_servers_clock_but_never_falls(
    store: SessionStore, redis: Redis
) -> None:
    sid = await store.create(ME, {})
    seconds, micros = await redis.time()
    grant = await begin(store, sid)
    assert grant.lease.fence >= seconds * 1000 + micros // 1000
    await finish(store, grant)
    ahead = grant.lease.fence + 10**9
    await redis.hset(session_keys(sid)[0], "fence", str(ahead))
    assert (await begin(store, sid)).lease.fence == ahead + 1


async def test_a_second_turn_is_refused_while_one_runs(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    await begin(store, sid)
    before = await everything(redis, sid)
    with pytest.raises(TurnBusy) as refused:
        await begin(store, sid, "me too")
    assert 1 <= refused.value.retry_after_s <= 5
    assert await everything(redis, sid) == before


async def test_a_step_is_committed_without_ending_the_turn(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    version, step = await store.commit(
        grant.lease,
        expected_version=grant.version,
        commit_id="one",
        messages=[HI, HI],
        notes={"colour": "blue"},
    )
    assert (version, step) == (grant.version + 1, 1)
    view = await store.read(sid, ME)
    assert (view.status, view.messages) == ("running", [HELLO, HI, HI])
    await store.commit(
        grant.lease, expected_version=version, commit_id="two", messages=[HI], ends_turn=True
    )
    assert (await store.read(sid, ME)).status == "idle"
    assert (await begin(store, sid)).notes == {"colour": "blue"}


async def test_a_repeated_commit_returns_what_the_first_one_did(
    store: SessionStore, redis: Redis
) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    commit = {
        "expected_version": grant.version,
        "commit_id": "one",
        "messages": [HI],
        "ends_turn": True,
    }
    first = await store.commit(grant.lease, **commit)
    before = await everything(redis, sid)
    assert await store.commit(grant.lease, **commit) == first
    assert await everything(redis, sid) == before


async def test_a_repeated_begin_returns_the_same_grant(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    first = await store.begin(sid, ME, "hello", nonce="n")
    before = await everything(redis, sid)
    assert await store.begin(sid, ME, "hello", nonce="n") == first
    assert await everything(redis, sid) == before
    await lose_lease(redis, sid)
    with pytest.raises(LeaseLost):
        await store.begin(sid, ME, "hello", nonce="n")
    assert (await store.read(sid, ME)).messages == [HELLO]


async def test_a_zombie_writes_nothing(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    zombie = await begin(store, sid)
    await lose_lease(redis, sid)
    with pytest.raises(LeaseLost):
        await finish(store, zombie)
    heir = await begin(store, sid, "go on")
    assert heir.outcome == "ORPHAN"
    before = await everything(redis, sid)
    with pytest.raises(LeaseLost):
        await finish(store, zombie)
    with pytest.raises(LeaseLost):
        await store.renew(zombie.lease)
    assert not await store.release(sid, ME, zombie.lease.nonce)
    assert await everything(redis, sid) == before
    await finish(store, heir)
    assert (await store.read(sid, ME)).messages == [HELLO, {"role": "user", "content": "go on"}, HI]


async def test_a_commit_on_another_version_is_refused(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    before = await everything(redis, sid)
    with pytest.raises(LeaseLost):
        await store.commit(
            grant.lease, expected_version=grant.version + 1, commit_id="c", messages=[HI]
        )
    assert await everything(redis, sid) == before


async def test_the_lease_runs_out_unless_it_is_renewed(redis: Redis) -> None:
    store = SessionStore(redis, lease_s=20)
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    lease_key = session_keys(sid)[1]
    await redis.pexpire(lease_key, 5_000)
    await store.renew(grant.lease)
    assert 15_000 < await redis.pttl(lease_key) <= 20_000


async def test_a_released_turn_leaves_its_message_and_lets_the_next_begin(
    store: SessionStore,
) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid)
    assert await store.release(sid, ME, grant.lease.nonce)
    view = await store.read(sid, ME)
    assert (view.status, view.messages) == ("interrupted", [HELLO])
    assert not await store.release(sid, ME, grant.lease.nonce)
    assert (await begin(store, sid, "next")).outcome == "ORPHAN"


async def test_a_dead_workers_session_reads_as_interrupted(
    store: SessionStore, redis: Redis
) -> None:
    sid = await store.create(ME, {})
    await begin(store, sid)
    await lose_lease(redis, sid)
    assert (await store.read(sid, ME)).status == "interrupted"


# Idempotency-Key.


async def test_a_finished_key_is_replayed(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    grant = await begin(store, sid, key="k")
    version, _ = await store.commit(
        grant.lease, expected_version=grant.version, commit_id="1", messages=[HI]
    )
    await store.commit(
        grant.lease,
        expected_version=version,
        commit_id="2",
        messages=[{"role": "tool", "content": "noon"}, {"role": "assistant", "content": " there"}],
        ends_turn=True,
        is_final=False,
    )
    await finish(store, await begin(store, sid, "another"))
    before = await everything(redis, sid)
    replay = await store.begin(sid, ME, "hello", nonce=new_nonce(), idempotency_key="k")
    assert isinstance(replay, Replay)
    assert replay.fence == grant.lease.fence
    assert replay.answer.as_json() == {
        "session_id": sid,
        "step": 2,
        "content": "hi there",
        "is_final": False,
    }
    assert await everything(redis, sid) == before


async def test_a_key_with_another_body_is_refused(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    await finish(store, await begin(store, sid, key="k"))
    before = await everything(redis, sid)
    with pytest.raises(IdempotencyMismatch):
        await begin(store, sid, "something else", key="k")
    assert await everything(redis, sid) == before


async def test_a_key_whose_turn_runs_is_told_to_wait(store: SessionStore) -> None:
    sid = await store.create(ME, {})
    await begin(store, sid, key="k")
    with pytest.raises(TurnBusy):
        await begin(store, sid, key="k")
    assert (await store.read(sid, ME)).messages == [HELLO]


async def test_an_interrupted_key_goes_on_where_it_stopped(
    store: SessionStore, redis: Redis
) -> None:
    sid = await store.create(ME, {})
    dead = await begin(store, sid, key="k")
    await store.commit(dead.lease, expected_version=dead.version, commit_id="1", messages=[HI])
    await lose_lease(redis, sid)
    heir = await begin(store, sid, key="k")
    assert (heir.outcome, heir.history, heir.turn_at) == ("RESUME", [HELLO, HI], 0)
    assert heir.lease.fence > dead.lease.fence
    await finish(store, heir)
    assert (await store.read(sid, ME)).messages == [HELLO, HI, HI]
    assert isinstance(await store.begin(sid, ME, "hello", nonce="n", idempotency_key="k"), Replay)


async def test_a_key_that_others_overtook_is_not_run_again(
    store: SessionStore, redis: Redis
) -> None:
    sid = await store.create(ME, {})
    await begin(store, sid, key="k")
    await lose_lease(redis, sid)
    other = await begin(store, sid, "other")
    with pytest.raises(TurnAbandoned):
        await begin(store, sid, key="k")
    await finish(store, other)
    with pytest.raises(TurnAbandoned):
        await begin(store, sid, key="k")


async def test_keys_are_forgotten_oldest_first(redis: Redis) -> None:
    store = SessionStore(redis, max_idempotency_keys=3)
    sid = await store.create(ME, {})
    for number in range(4):
        await finish(store, await begin(store, sid, key=f"k{number}"))
        # Records of one millisecond would be equally old.
        req = session_keys(sid)[5]
        record = json.loads(await redis.hget(req, f"k{number}"))
        await redis.hset(req, f"k{number}", json.dumps(record | {"at": str(number + 10**15)}))
    assert set(await redis.hkeys(session_keys(sid)[5])) == {"k1", "k2", "k3"}


# Lifetimes.


async def test_all_keys_expire_together_and_use_prolongs_them(redis: Redis) -> None:
    store = SessionStore(redis, sliding_s=1000)
    sid = await store.create(ME, {})
    await finish(store, await begin(store, sid, key="k"))
    keys = session_keys(sid)
    used = [keys[0], keys[2], keys[5]]
    at = {await redis.pexpiretime(key) for key in used}
    assert len(at) == 1
    await redis.pexpire(keys[0], 5_000)
    await store.read(sid, ME)
    assert {await redis.pexpiretime(key) > min(at) - 1 for key in used} == {True}
    assert len({await redis.pexpiretime(key) for key in used}) == 1


async def test_use_does_not_prolong_beyond_the_absolute_age(redis: Redis) -> None:
    store = SessionStore(redis, sliding_s=1000, absolute_s=50)
    sid = await store.create(ME, {})
    created = int(await redis.hget(session_keys(sid)[0], "created"))
    await finish(store, await begin(store, sid))
    assert await redis.pexpiretime(session_keys(sid)[0]) == created + 50_000


# Redis away.


async def test_an_unreachable_redis_is_one_error_and_is_counted(
    own_redis_server: RedisServer,
) -> None:
    client = connect(own_redis_server.url)
    failed: list[str] = []
    store = SessionStore(client, on_unavailable=failed.append)
    sid = await store.create(ME, {})
    own_redis_server.stop()
    with pytest.raises(StoreUnavailable) as error:
        await store.read(sid, ME)
    with pytest.raises(StoreUnavailable):
        await store.ping()
    assert error.value.retry_after_s
    assert failed == ["read", "ping"]
    await client.aclose()


async def test_a_loss_of_redis_and_its_end_are_logged_once_each(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store.ping()
    with monkeypatch.context() as patched:
        patched.setattr(store._redis, "execute_command", AsyncMock(side_effect=OSError("gone")))
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.ping()
    await store.ping()
    await store.ping()
    assert [r.getMessage() for r in caplog.records] == [
        "Redis is lost: ping: gone",
        "Redis answers again",
    ]


async def test_scripts_are_loaded_again_after_redis_forgot_them(
    store: SessionStore, redis: Redis
) -> None:
    sid = await store.create(ME, {})
    await redis.script_flush()
    assert (await store.read(sid, ME)).session_id == sid
