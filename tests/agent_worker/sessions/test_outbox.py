"""The archive's outbox is complete."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent_worker.errors import SessionNotFound
from agent_worker.sessions import SessionStore, connect, new_session_id
from agent_worker.sessions.outbox import SCAN_EVERY_S, Unarchived
from tests.support.agent.sessions import (
    HELLO,
    HI,
    ME,
    assistant,
    begin,
    commit,
    everything,
    expiries,
    finish,
    key_of,
    unchanged,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from tests.support.agent.sessions import Backend


@pytest.fixture
async def own_store(own_redis_server: RedisServer) -> AsyncIterator[SessionStore]:
    """A store whose hints and scans are not shared with other tests."""
    client = connect(own_redis_server.url)
    yield client.session_store()
    await client.aclose()


async def read(store: SessionStore, sid: str) -> Unarchived:
    """Without the fence, which depends on a clock."""
    return replace(await store.outbox.read(sid), fence=0)


async def archived(store: SessionStore, sid: str, upto: int) -> int:
    found = await store.outbox.read(sid)
    return await store.outbox.archived(sid, upto, fence=found.fence)


# The watermark.


async def test_what_is_committed_is_there_for_the_archive(store: SessionStore, sid: str) -> None:
    assert await read(store, sid) == Unarchived(sid, ME, 0, [])
    grant = await begin(store, sid)
    assert await read(store, sid) == Unarchived(sid, ME, 0, [HELLO])
    await finish(store, grant)
    assert await read(store, sid) == Unarchived(sid, ME, 0, [HELLO, HI])


async def test_what_is_archived_is_not_given_again(store: SessionStore, sid: str) -> None:
    await finish(store, await begin(store, sid))
    assert await archived(store, sid, 1) == 1
    assert await read(store, sid) == Unarchived(sid, ME, 1, [HI])
    assert await archived(store, sid, 2) == 0
    assert await read(store, sid) == Unarchived(sid, ME, 2, [])
    await begin(store, sid)
    assert await read(store, sid) == Unarchived(sid, ME, 2, [HELLO])


async def test_the_watermark_never_falls(store: SessionStore, backend: Backend, sid: str) -> None:
    await finish(store, await begin(store, sid))
    await archived(store, sid, 2)
    async with unchanged(backend, sid):
        for upto in (1, 2):
            assert await archived(store, sid, upto) == 0


async def test_a_long_history_is_given_in_batches(store: SessionStore, sid: str) -> None:
    messages = [assistant(str(number)) for number in range(450)]
    await commit(store, await begin(store, sid), *messages)
    sizes, given = [], []
    while (batch := await store.outbox.read(sid)).messages:
        assert batch.first == len(given)
        sizes.append(len(batch.messages))
        given += batch.messages
        await archived(store, sid, len(given))
    assert sizes == [200, 200, 51]
    assert given == [HELLO, *messages]


async def test_a_deleted_session_is_given_as_such(store: SessionStore, sid: str) -> None:
    await finish(store, await begin(store, sid))
    await store.delete(sid, ME)
    assert await read(store, sid) == Unarchived(sid, ME, 0, [], is_deleted=True)


async def test_a_session_that_is_not_there_is_not_found(
    store: SessionStore, backend: Backend
) -> None:
    sid = new_session_id()
    with pytest.raises(SessionNotFound):
        await store.outbox.read(sid)
    with pytest.raises(SessionNotFound):
        await store.outbox.archived(sid, 1, fence=0)
    assert await everything(backend, sid) == {}


async def test_to_archive_a_session_is_no_use_of_it(store: SessionStore, redis: Redis) -> None:
    sid = await store.create(ME, {})
    await finish(store, await begin(store, sid))
    await redis.pexpireat(key_of(sid, "meta"), before := (await expiries(redis, sid))["msgs"] - 1)
    await store.outbox.read(sid)
    await archived(store, sid, 2)
    assert (await expiries(redis, sid))["meta"] == before


# Hints and scans.


async def test_a_hint_is_taken_once(own_store: SessionStore) -> None:
    sids = {await own_store.create(ME, {}) for _ in range(3)}
    for sid in [*sids, *sids]:
        await own_store.outbox.announce(sid)
    first = await own_store.outbox.take(2)
    rest = await own_store.outbox.take()
    assert len(first) == 2
    assert {*first, *rest} == sids
    assert await own_store.outbox.take() == []


async def test_a_scan_finds_every_session_deleted_ones_too(own_store: SessionStore) -> None:
    sids = [await own_store.create(ME, {}) for _ in range(20)]
    await own_store.delete(sids[0], ME)
    await begin(own_store, sids[1])
    found = [sid async for sid in own_store.outbox.all()]
    assert set(found) == set(sids)


async def test_one_scan_within_a_while_is_enough(own_store: SessionStore) -> None:
    sid = await own_store.create(ME, {})
    raw = own_store._operations.client.raw
    assert [each async for each in own_store.outbox.all()] == [sid]
    assert [each async for each in own_store.outbox.all()] == []
    [scanned] = await raw.keys("hermes:outbox:*")
    assert 0 < await raw.ttl(scanned) <= SCAN_EVERY_S
    await raw.delete(scanned)
    assert [each async for each in own_store.outbox.all()] == [sid]


async def test_scans_come_more_often_than_a_tombstone_expires(
    store: SessionStore, redis: Redis, sid: str
) -> None:
    await store.delete(sid, ME)
    assert await redis.ttl(key_of(sid, "meta")) > 2 * SCAN_EVERY_S
