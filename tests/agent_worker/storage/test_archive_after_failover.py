"""A failover loses the last messages of Redis; the archive replaces them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from agent_worker.metrics import Metrics
from agent_worker.runtime import Archiver, LargeTexts
from agent_worker.sessions import SessionStore, connect, session_keys
from tests.support.agent.sessions import ME, assistant, begin, finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.redis_server import RedisServer
    from agent_worker.storage.postgres import PostgresArchive, PostgresStorage


class Desk:
    def __init__(self, redis: Redis, store: SessionStore, archive: PostgresArchive) -> None:
        self.redis, self.store, self.archive = redis, store, archive
        self.archiver = Archiver(store, archive, LargeTexts(None), Metrics())

    async def say(self, sid: str, content: str, *answers: str) -> None:
        grant = await begin(self.store, sid, content)
        await finish(self.store, grant, *map(assistant, answers or (f"re: {content}",)))

    async def to_archive(self, sid: str) -> None:
        await self.archiver._archive_session(sid)

    async def history(self, sid: str) -> Any:
        return (await self.store.read(sid, ME)).messages

    async def snapshot(self, sid: str) -> dict[str, Any]:
        keys = session_keys(sid)
        return {key: value for key in keys if (value := await self.redis.dump(key)) is not None}

    async def fail_over(self, sid: str, kept: dict[str, Any]) -> None:
        """The new master has the data of the snapshot."""
        await self.redis.delete(*session_keys(sid))
        for key, value in kept.items():
            await self.redis.restore(key, 3_600_000, value)


@pytest.fixture
async def desk(own_redis_server: RedisServer, storage: PostgresStorage) -> AsyncIterator[Desk]:
    client = connect(own_redis_server.url)
    # A client of its own: dumps are not text.
    async with Redis.from_url(own_redis_server.url) as redis:
        yield Desk(redis, client.session_store(), storage.archive)
    await client.aclose()


async def test_lost_messages_give_way_to_those_that_were_acknowledged_since(desk: Desk) -> None:
    sid = await desk.store.create(ME, {})
    await desk.say(sid, "kept")
    await desk.to_archive(sid)
    kept = await desk.snapshot(sid)
    await desk.say(sid, "lost", "one", "two", "three")
    await desk.to_archive(sid)
    await desk.fail_over(sid, kept)
    await desk.say(sid, "new")
    await desk.to_archive(sid)
    said = ["kept", "re: kept", "new", "re: new"]
    assert [message["content"] for message in await desk.history(sid)] == said
    assert await desk.archive.read(sid, ME) == await desk.history(sid)


@pytest.mark.parametrize("new", [[], ["new"], ["new", "newer", "newest"]])
async def test_an_archiver_that_read_before_the_failover_moves_no_mark_behind_it(
    desk: Desk, new: list[str]
) -> None:
    sid = await desk.store.create(ME, {})
    await desk.say(sid, "kept")
    kept = await desk.snapshot(sid)
    await desk.say(sid, "lost", "one", "two", "three")
    read = await desk.store.outbox.read(sid)
    await desk.archive.append(sid, ME, read.first, read.messages, fence=read.fence)
    await desk.fail_over(sid, kept)
    for content in new:
        await desk.say(sid, content)
    await desk.store.outbox.archived(sid, len(read.messages), fence=read.fence)
    await desk.say(sid, "last")
    await desk.to_archive(sid)
    assert await desk.archive.read(sid, ME) == await desk.history(sid)


async def test_a_turn_that_lost_its_last_step_is_archived_as_it_went_on(desk: Desk) -> None:
    """The fence is the same before and after the loss."""
    sid = await desk.store.create(ME, {})
    grant = await begin(desk.store, sid, "go", idempotency_key="k")
    kept = await desk.snapshot(sid)
    await finish(desk.store, grant, assistant("lost"))
    read = await desk.store.outbox.read(sid)
    await desk.archive.append(sid, ME, read.first, read.messages, fence=read.fence)
    await desk.fail_over(sid, kept)
    assert await desk.store.outbox.archived(sid, 2, fence=read.fence) == 0
    await desk.store.release(sid, ME, grant.lease.nonce)
    heir = await begin(desk.store, sid, "go", idempotency_key="k")
    await finish(desk.store, heir, assistant("new"))
    await desk.to_archive(sid)
    assert await desk.archive.read(sid, ME) == await desk.history(sid)
