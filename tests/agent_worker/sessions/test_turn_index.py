"""The index of running turns: heartbeats, stale entries, claims."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import AgentError, SessionNotFound, StoreUnavailable
from agent_worker.sessions import SessionStore, connect, new_nonce, new_session_id, turn_index
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.support.agent.sessions import ME, begin, commit, finish, lose_lease, user
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from agent_worker.sessions.turn_index import TurnIndex
    from tests.support.agent.sessions import Backend


@pytest.fixture(autouse=True)
def own_index(monkeypatch: pytest.MonkeyPatch) -> str:
    """Without heartbeats of other tests."""
    key = f"hermes:turns:{new_nonce()}"
    monkeypatch.setattr(turn_index, "INDEX", key)
    return key


@pytest.fixture
def index(store: SessionStore) -> TurnIndex:
    return store.index


@pytest.fixture
def other(backend: Backend) -> TurnIndex:
    return backend.session_store().index


async def stale(index: TurnIndex, most: int = 8, stale_s: float = 0.0) -> list[str]:
    return sorted(await index.beat(stale_s=stale_s, most=most))


async def grow_old(redis: Redis, key: str, *entries: str) -> None:
    """As if their workers had sent no heartbeat for a minute."""
    seconds, _ = await redis.time()
    await redis.zadd(key, dict.fromkeys(entries, (seconds - 60) * 1000))


async def test_an_entry_is_stale_without_heartbeats(
    index: TurnIndex, other: TurnIndex, redis: Redis, own_index: str
) -> None:
    await index.enter("s1", "a.1")
    assert await stale(other, stale_s=30) == []
    await grow_old(redis, own_index, "s1 a.1")
    assert await stale(other, stale_s=90) == []
    assert await stale(other, stale_s=30) == ["s1 a.1"]


async def test_what_is_claimed_is_hidden_from_the_others(
    index: TurnIndex, other: TurnIndex, redis: Redis, own_index: str
) -> None:
    await grow_old(redis, own_index, *(f"s{n} dead.{n}" for n in range(5)))
    claims = [await stale(each, 2, 30) for each in (index, other, index, other)]
    assert [len(claim) for claim in claims] == [2, 2, 1, 0]
    assert sorted(entry for claim in claims for entry in claim) == [
        f"s{n} dead.{n}" for n in range(5)
    ]
    # It was not continued: it is found again.
    await grow_old(redis, own_index, *claims[0])
    assert await stale(other, stale_s=30) == claims[0]


async def test_a_heartbeat_renews_all_entries_of_its_worker(
    index: TurnIndex, other: TurnIndex, redis: Redis, own_index: str
) -> None:
    for number in range(3):
        await index.enter(f"s{number}", "a.1")
    await grow_old(redis, own_index, *(f"s{n} a.1" for n in range(3)))
    await index.beat(stale_s=30, most=0)
    assert await stale(other, stale_s=30) == []
    # Also after a failover that lost them.
    await redis.delete(own_index)
    await index.beat(stale_s=30, most=0)
    assert await redis.zcard(own_index) == 3


async def test_what_is_over_is_removed_and_what_is_not_is_left(
    index: TurnIndex, other: TurnIndex, redis: Redis, own_index: str
) -> None:
    await index.enter("s1", "a.1")
    await index.enter("s2", "a.2")
    index.leave("s1", "a.1", is_over=True)
    index.leave("s2", "a.2", is_over=False)
    await index.beat(stale_s=30, most=0)
    assert await redis.zrange(own_index, 0, -1) == ["s2 a.2"]
    await grow_old(redis, own_index, "s2 a.2")
    await index.beat(stale_s=30, most=0)
    assert await stale(other, stale_s=30) == ["s2 a.2"]
    other.forget("s2 a.2")
    await other.beat(stale_s=30, most=0)
    assert await redis.exists(own_index) == 0


async def test_the_index_of_a_fleet_that_is_gone_expires(
    index: TurnIndex, redis: Redis, own_index: str
) -> None:
    await index.enter("s1", "a.1")
    assert 30 * 86400 < await redis.ttl(own_index) <= 31 * 86400


# The session that an entry names.


async def test_an_orphan_is_distinguished_from_what_is_well(
    store: SessionStore, backend: Backend
) -> None:
    index = store.index
    sid = await store.create(ME, {})
    assert (await index.look(sid)).state == "over"
    grant = await begin(store, sid)
    turn = str(grant.lease.fence)
    await store.begin(sid, ME, user("later"), nonce=new_nonce(), policy="enqueue")
    held = await index.look(sid)
    assert (held.owner, held.turn, held.state) == (ME, turn, "held")
    assert (held.nonce, held.waiting) == (grant.lease.nonce, 1)
    assert 0 <= held.silent_s < 60
    await lose_lease(backend, sid)
    assert (await index.look(sid)).state == "free"


@pytest.mark.parametrize(("is_left", "state"), [(False, "over"), (True, "free")])
async def test_a_turn_that_was_given_back_is_no_orphan_unless_it_was_left_to_others(
    store: SessionStore, is_left: bool, state: str, sid: str
) -> None:
    grant = await begin(store, sid)
    for _ in range(2):
        assert await store.release(sid, ME, grant.lease.nonce, is_left=is_left) == 0
    assert (await store.index.look(sid)).state == state
    assert (await store.events.page(sid, ME, None)).state == state
    # The worker that continues it can release it as well.
    again = await begin(store, sid, "again")
    await store.release(sid, ME, again.lease.nonce)
    assert (await store.index.look(sid)).state == "over"


async def test_a_turn_with_an_end_or_that_shall_stop_needs_nobody(
    store: SessionStore, backend: Backend, sid: str
) -> None:
    await finish(store, await begin(store, sid))
    assert (await store.index.look(sid)).state == "over"
    await commit(store, await begin(store, sid, "next"))
    await store.interrupt(sid, ME)
    assert (await store.index.look(sid)).state == "stopping"
    await lose_lease(backend, sid)
    assert (await store.index.look(sid)).state == "over"


async def test_of_a_session_that_is_gone_nothing_is_known(store: SessionStore) -> None:
    with pytest.raises(SessionNotFound):
        await store.index.look(new_session_id())
    sid = await store.create(ME, {})
    await store.delete(sid, ME)
    with pytest.raises(SessionNotFound):
        await store.index.look(sid)


# Interruptions of Redis.


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[DroppingProxy]:
    async with DroppingProxy(redis_server.port) as proxy:
        yield proxy


async def test_a_heartbeat_that_fails_is_an_interruption(proxy: DroppingProxy) -> None:
    client = connect(proxy.url)
    index = client.session_store().index
    await index.enter("s1", "a.1")
    await index.beat(stale_s=30, most=0)
    assert index.steady_s == math.inf
    proxy.refuses = True
    proxy.cut()
    index.leave("s1", "a.1", is_over=True)
    with pytest.raises(StoreUnavailable):
        await index.beat(stale_s=30, most=0)
    # It counts from the first one that is answered again.
    assert index.steady_s == 0.0
    proxy.refuses = False
    await index.beat(stale_s=30, most=0)
    assert 0 <= index.steady_s < 60
    # Entries that were over before are removed as well.
    assert await client.raw.zcard(turn_index.INDEX) == 0
    await client.aclose()


async def test_a_heartbeat_that_takes_long_is_one_before_it_ends(
    proxy: DroppingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_index, "_SLOW_S", 0.05)
    client = connect(proxy.url)
    index = client.session_store().index
    await index.beat(stale_s=30, most=0)
    proxy.go_mute()
    beating = asyncio.ensure_future(index.beat(stale_s=30, most=0))  # noqa: TID251
    await until(lambda: index.steady_s == 0.0)
    proxy.speak()
    await beating
    assert 0 <= index.steady_s < 60
    await client.aclose()


async def test_heartbeats_that_do_not_come_are_one(
    index: TurnIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped, and perhaps all others as well."""
    monkeypatch.setattr(turn_index, "_LATE_S", 0.05)
    await index.beat(stale_s=30, most=0)
    await until(lambda: index.steady_s == 0.0)
    await index.beat(stale_s=30, most=0)
    assert index.steady_s < 60


async def test_an_attempt_that_cannot_be_entered_does_not_begin(proxy: DroppingProxy) -> None:
    client = connect(proxy.url)
    index = client.session_store().index
    proxy.refuses = True
    with pytest.raises(AgentError):
        await index.enter("s1", "a.1")
    proxy.refuses = False
    await index.beat(stale_s=30, most=0)
    assert await client.raw.zcard(turn_index.INDEX) == 0
    await client.aclose()
