"""A session from its creation to its end: access, lifetimes, other versions, outages."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import (
    AgentError,
    LeaseLost,
    SessionNotFound,
    SessionTooNew,
    StoreUnavailable,
    TurnBusy,
)
from agent_worker.redis_server import RedisServer
from agent_worker.sessions import (
    Event,
    Grant,
    SessionStore,
    Summary,
    connect,
    is_session_id,
    new_nonce,
    new_session_id,
    session_keys,
)
from agent_worker.sessions.keys import KINDS
from agent_worker.sessions.scripts import load_scripts
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    OPERATIONS,
    UNDER_A_LEASE,
    YOU,
    assistant,
    begin,
    busy_session,
    commit,
    delta,
    everything,
    expiries,
    finish,
    key_of,
    lose_lease,
    lose_session,
    open_store,
    unchanged,
    user,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from agent_worker.sessions import RedisBackend
    from agent_worker.sessions.scripts import Script
    from tests.support.agent.sessions import Backend

HOUR_MS = 3600 * 1000
OTHER_FIELDS = {"colour": "blue", "turn_mood": "{}"}
# An older worker does not write these; the scripts have defaults.
OPTIONAL = (
    "bytes",
    "summary",
    "summary_at",
    "step_event",
    "last_event",
    "turn_event",
    "turn_first",
    "turn_before",
    "first_event",
    "begun",
    "turns",
    "lease_ms",
    "requests",
)


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
        "total": 0,
        "waiting": 0,
    }
    assert (view.version, view.summary, view.last_event) == (1, Summary("", 0), "0-0")


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
    assert len(keys) == len(set(keys)) == len(KINDS) == 7
    assert all("{abc}" in key for key in keys)


async def test_a_part_of_the_messages_can_be_read(store: SessionStore, sid: str) -> None:
    await finish(store, await begin(store, sid), *(assistant(str(n)) for n in range(4)))
    view = await store.read(sid, ME, first=1, last=2)
    assert view.messages == [assistant("0"), assistant("1")]
    assert view.total == 5
    assert (await store.read(sid, ME, first=-1)).messages == [assistant("3")]
    assert (await store.read(sid, ME, first=5)).messages == []


async def test_a_dead_workers_session_reads_as_interrupted(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await begin(store, sid)
    await lose_lease(backend, sid)
    assert (await store.read(sid, ME)).status == "interrupted"
    assert (await store.events.page(sid, ME, None)).status == "interrupted"


# The owner.


async def test_the_operations_that_others_try_are_all_that_there_are(
    store: SessionStore, client: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, grant = await busy_session(store)
    lease = replace(grant.lease, session_id=new_session_id())
    ran: set[str] = set()

    async def run(script: Script, keys: Sequence[str], args: Sequence[Any]) -> list[str]:
        ran.add(script.name)
        return ["NO_SESSION"]

    monkeypatch.setattr(client, "run", run)
    for operation in OPERATIONS.values():
        with pytest.raises(SessionNotFound):
            await operation(store, lease)
    without_principal = {"unarchived", "archived", "orphan", "beat"}
    assert ran == set(load_scripts()) - {"create", *without_principal}


async def test_a_busy_session_has_data_under_each_key(store: SessionStore, redis: Redis) -> None:
    sid, _ = await busy_session(store)
    assert set(await everything(redis, sid)) == set(KINDS)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_nobody_but_the_owner_gets_anything(
    store: SessionStore, backend: Backend, name: str
) -> None:
    sid, grant = await busy_session(store)
    expire = await expiries(backend, sid)
    async with unchanged(backend, sid):
        with pytest.raises(SessionNotFound):
            await OPERATIONS[name](store, replace(grant.lease, principal=YOU))
    assert await expiries(backend, sid) == expire


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_unknown_session_is_not_found_and_not_made(
    store: SessionStore, backend: Backend, name: str
) -> None:
    _, grant = await busy_session(store)
    sid = new_session_id()
    lease = replace(grant.lease, session_id=sid)
    with pytest.raises(SessionNotFound):
        await OPERATIONS[name](store, lease)
    assert await everything(backend, sid) == {}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_no_operation_brings_a_deleted_session_back(
    store: SessionStore, backend: Backend, name: str
) -> None:
    sid, grant = await busy_session(store)
    await store.delete(sid, ME)
    expire = await expiries(backend, sid)
    async with unchanged(backend, sid):
        with pytest.raises(SessionNotFound):
            await OPERATIONS[name](store, grant.lease)
    assert await expiries(backend, sid) == expire


async def test_a_deleted_session_leaves_a_tombstone_of_an_hour(
    store: SessionStore, redis: Redis
) -> None:
    sid, _ = await busy_session(store)
    await store.delete(sid, ME)
    assert set(await everything(redis, sid)) == {"meta"}
    assert 0 < await redis.pttl(key_of(sid, "meta")) <= HOUR_MS


@pytest.mark.parametrize("name", OPERATIONS)
async def test_no_operation_brings_an_expired_session_back(
    store: SessionStore, backend: Backend, name: str
) -> None:
    sid, grant = await busy_session(store)
    await lose_session(backend, sid)
    with pytest.raises(SessionNotFound):
        await OPERATIONS[name](store, grant.lease)
    assert await everything(backend, sid) == {}


async def test_the_archive_brings_nothing_back_either(
    store: SessionStore, backend: Backend
) -> None:
    sid, _ = await busy_session(store)
    await store.delete(sid, ME)
    async with unchanged(backend, sid):
        with pytest.raises(SessionNotFound):
            await store.outbox.archived(sid, 2, fence=0)
    await lose_session(backend, sid)
    with pytest.raises(SessionNotFound):
        await store.outbox.archived(sid, 2, fence=0)
    with pytest.raises(SessionNotFound):
        await store.outbox.read(sid)
    assert await everything(backend, sid) == {}


# Workers of other versions.


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_session_of_a_newer_worker_is_left_alone(
    store: SessionStore, redis: Redis, name: str
) -> None:
    sid, grant = await busy_session(store)
    await redis.hset(key_of(sid, "meta"), "schema", "2")
    async with unchanged(redis, sid):
        with pytest.raises(SessionTooNew):
            await OPERATIONS[name](store, grant.lease)


async def test_fields_that_a_newer_worker_added_are_left_alone(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    await redis.hset(key_of(sid, "meta"), mapping=OTHER_FIELDS)
    grant = await begin(store, sid, idempotency_key="k")
    await store.events.append(grant.lease, [delta(grant, 1, "hi")])
    await finish(store, grant)
    assert (await begin(store, sid)).history == [HELLO, HI, HELLO]
    meta = await redis.hgetall(key_of(sid, "meta"))
    assert OTHER_FIELDS.items() <= meta.items()


@pytest.mark.parametrize("field", OPTIONAL)
async def test_a_field_that_an_older_worker_did_not_write_has_a_default(
    store: SessionStore, redis: Redis, field: str
) -> None:
    sid, grant = await busy_session(store)
    assert await redis.hdel(key_of(sid, "meta"), field) == (field not in {"summary", "summary_at"})
    history = [HELLO, assistant("I shall", "mail")]
    assert (await store.read(sid, ME)).messages == history
    assert (await store.events.page(sid, ME, None)).status == "running"
    again = await store.begin(sid, ME, HELLO, nonce=grant.lease.nonce)
    assert again.history == history
    await finish(store, again)
    assert (await store.read(sid, ME)).messages == [*history, HI]
    assert (await store.begin(sid, ME, None, nonce=new_nonce())).of_turn == [user("later")]


# Lifetimes.


async def test_every_key_expires_and_all_of_them_together(
    store: SessionStore, redis: Redis
) -> None:
    sid, _ = await busy_session(store)
    times = await expiries(redis, sid)
    assert set(times) == set(KINDS)
    lease = times.pop("lease")
    assert len(set(times.values())) == 1
    now = await now_ms(redis)
    assert now < lease <= now + 30_000 < min(times.values())


async def test_use_prolongs_all_keys_alike(redis: Redis, client: RedisBackend) -> None:
    store = open_store(client, sliding_s=1000)
    sid, _ = await busy_session(store)
    for kind in set(KINDS) - {"lease"}:
        await redis.pexpire(key_of(sid, kind), 5_000)
    now = await now_ms(redis)
    await store.read(sid, ME)
    times = await expiries(redis, sid)
    del times["lease"]
    assert len(set(times.values())) == 1
    assert times["meta"] >= now + 1_000_000


async def test_the_events_live_an_hour_from_the_end_and_the_rest_stays(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    grant = await begin(store, sid)
    await store.events.append(grant.lease, [delta(grant, 1, "hi")])
    before = await now_ms(redis)
    await finish(store, grant)
    after = await now_ms(redis)
    times = await expiries(redis, sid)
    events = times.pop("ev")
    assert before + HOUR_MS <= events <= after + HOUR_MS
    assert set(times) == {"meta", "msgs"}
    assert {before + 24 * HOUR_MS <= at <= after + 24 * HOUR_MS for at in times.values()} == {True}
    await store.read(sid, ME)
    assert (await expiries(redis, sid))["ev"] == events, "to look at it is no turn"
    again = await begin(store, sid)
    times = await expiries(redis, sid)
    assert times["ev"] == times["meta"], "a turn runs again"
    assert await store.release(sid, ME, again.lease.nonce) == 0
    assert (await expiries(redis, sid))["ev"] <= await now_ms(redis) + HOUR_MS


@pytest.mark.parametrize("name", ["turn", "read", "tool"])
async def test_use_does_not_prolong_beyond_the_absolute_age(
    redis: Redis, client: RedisBackend, name: str
) -> None:
    store = open_store(client, sliding_s=1000, absolute_s=50)
    sid = await store.create(ME, {})
    created = int(await redis.hget(key_of(sid, "meta"), "created"))
    grant = await begin(store, sid)
    await store.events.append(grant.lease, [delta(grant, 1, "hi")])
    if name == "tool":
        await store.tools.begin(grant.lease, "1.0", "read", "hash", "attempt")
    else:
        await finish(store, grant)
        if name == "read":
            await store.read(sid, ME)
    times = await expiries(redis, sid)
    times.pop("lease", None)
    assert set(times.values()) == {created + 50_000}


async def now_ms(redis: Redis) -> int:
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


# Outages of Redis.


async def test_an_unreachable_redis_is_one_error_and_is_counted(
    own_redis_server: RedisServer,
) -> None:
    client = connect(own_redis_server.url)
    failed: list[str] = []
    store = open_store(client, on_unavailable=failed.append)
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
    own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(own_redis_server.url)
    store = client.session_store()
    await store.ping()
    own_redis_server.stop()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.ping()
    with RedisServer.start(own_redis_server.port):
        await store.ping()
        await store.ping()
    await client.aclose()
    first, last = [r.getMessage() for r in caplog.records if r.name.startswith("agent_worker")]
    assert first.startswith("Redis is unavailable: ping: ")
    assert last == "Redis is available again"


async def _append_no_event(store: SessionStore, backend: Backend, grant: Grant) -> None:
    await store.events.append(grant.lease, [Event("no id", "message.delta", "{}")])


async def _check_what_is_no_hash(store: SessionStore, redis: Redis, grant: Grant) -> None:
    sid = grant.lease.session_id
    await redis.delete(key_of(sid, "meta"))
    await redis.set(key_of(sid, "meta"), "no hash")
    await store.check(sid, ME)


@pytest.mark.parametrize("fail", [_append_no_event, _check_what_is_no_hash])
async def test_a_script_that_fails_by_itself_is_no_loss_of_redis(
    client: RedisBackend, redis: Redis, caplog: pytest.LogCaptureFixture, fail: Any
) -> None:
    failed: list[str] = []
    store = open_store(client, on_unavailable=failed.append)
    grant = await begin(store, await store.create(ME, {}))
    with pytest.raises(AgentError) as caught:
        await fail(store, redis, grant)
    assert (type(caught.value), caught.value.status) == (AgentError, 500)
    assert failed == []
    (logged,) = [r for r in caplog.records if r.name.startswith("agent_worker")]
    assert (logged.levelname, logged.getMessage().split()[-1]) == ("ERROR", "failed")
    assert logged.exc_info is not None


@pytest.mark.parametrize(("setting", "value"), [("maxmemory", "1"), ("min-replicas-to-write", "1")])
async def test_a_redis_that_refuses_to_write_is_unavailable(
    own_redis_server: RedisServer, setting: str, value: str
) -> None:
    client = connect(own_redis_server.url)
    store = client.session_store()
    await client.raw.config_set(setting, value)
    with pytest.raises(StoreUnavailable):
        await store.create(ME, {})
    await client.aclose()


async def test_scripts_are_loaded_again_after_redis_forgot_them(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    await redis.script_flush()
    assert (await store.read(sid, ME)).session_id == sid


# Concurrency.


async def test_twenty_turns_at_once_lose_no_message(store: SessionStore, sid: str) -> None:
    contents = [f"m{n}" for n in range(20)]

    async def one_turn(content: str) -> None:
        """Begin or queue it; a caller that had a turn continues with queued ones if none runs."""
        options = {"policy": "enqueue", "idempotency_key": content}
        granted = await store.begin(sid, ME, user(content), nonce=new_nonce(), **options)
        while isinstance(granted, Grant):
            asked = " ".join(message["content"] for message in granted.of_turn)
            await finish(store, granted, assistant(f"answer to {asked}"))
            try:
                granted = await store.begin(sid, ME, None, nonce=new_nonce())
            except TurnBusy:
                return

    await asyncio.gather(*map(one_turn, contents))
    view = await store.read(sid, ME)
    assert (view.status, view.waiting) == ("idle", 0)
    assert sorted(m["content"] for m in view.messages if m["role"] == "user") == sorted(contents)
    turns = [list(turn) for _, turn in itertools.groupby(view.messages, lambda m: m["role"])]
    for asked, [answer] in zip(turns[::2], turns[1::2], strict=True):
        assert answer["content"] == "answer to " + " ".join(m["content"] for m in asked)
    assert (view.step, view.version) == (len(turns) / 2, 1 + len(turns))


async def test_of_twenty_at_once_exactly_one_gets_the_lease(store: SessionStore, sid: str) -> None:
    results = await asyncio.gather(
        *(store.begin(sid, ME, user(f"m{n}"), nonce=new_nonce()) for n in range(20)),
        return_exceptions=True,
    )
    (granted,) = [result for result in results if isinstance(result, Grant)]
    assert sum(isinstance(result, TurnBusy) for result in results) == 19
    assert (await store.read(sid, ME)).messages == granted.history


async def test_a_zombie_writes_nothing(store: SessionStore, backend: Backend) -> None:
    sid, zombie = await busy_session(store)
    await lose_lease(backend, sid)
    for name in UNDER_A_LEASE:
        async with unchanged(backend, sid):
            with pytest.raises(LeaseLost):
                await OPERATIONS[name](store, zombie.lease)
    heir = await begin(store, sid, "go on")
    assert heir.outcome == "ORPHAN"
    for name in UNDER_A_LEASE:
        async with unchanged(backend, sid):
            with pytest.raises(LeaseLost):
                await OPERATIONS[name](store, zombie.lease)
    assert await store.release(sid, ME, zombie.lease.nonce) is None
    await commit(store, heir, HI)
