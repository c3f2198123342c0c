"""The archive gets each message, in order, despite failures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from agent_worker.errors import StoreUnavailable
from agent_worker.metrics import Metrics
from agent_worker.runtime import Archiver, LargeTexts, archiver
from agent_worker.sessions import Part, connect, new_nonce, session_keys
from agent_worker.storage.base import Storages, StorageUnavailable
from agent_worker.tasks import cancel_and_wait, spawn
from tests.agent_worker.runtime.test_large import BIG, FakeBlobs
from tests.support.agent.engines import PlannedEngine
from tests.support.agent.runtime import ANONYMOUS, ME, create, post, said, speech, user
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from agent_worker.sessions import Message, RedisBackend
    from tests.agent_worker.conftest import StartWorker

SCANNED = "hermes:outbox:scanned"


@dataclass
class FakeArchive:
    """Skips known messages; raises each of `failures` first, before it has stored anything."""

    kept: dict[str, list[Message]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    appends: list[tuple[str, int, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    async def append(
        self,
        session_id: str,
        principal: str,
        first: int,
        messages: Sequence[Message],
        *,
        fence: int,
    ) -> None:
        if self.failures:
            raise self.failures.pop()
        self.appends.append((session_id, first, len(messages)))
        known = self.kept.setdefault(session_id, [])
        assert first <= len(known), "some are missing"
        new = messages[len(known) - first :]
        assert known[first:] == list(messages[: len(known) - first])
        known.extend(new)
        self.owners[session_id] = principal

    async def read(self, session_id: str, principal: str) -> Sequence[Message]:
        return self.kept[session_id]

    async def delete(self, session_id: str) -> None:
        self.deleted.append(session_id)
        self.kept.pop(session_id, None)


class Desk:
    """A store of its own (all sessions share the outbox), an archive, and archivers."""

    def __init__(self, client: RedisBackend) -> None:
        self.store = client.session_store()
        self.redis: Redis = client.raw
        self.archive = FakeArchive()
        self.blobs = FakeBlobs()
        self.large = LargeTexts(self.blobs)
        self.metrics = Metrics()

    def archiver(self) -> Archiver:
        return Archiver(self.store, self.archive, self.large, self.metrics)

    async def session(self, *contents: str, is_announced: bool = True) -> str:
        sid = await self.store.create(ME, {})
        for content in contents:
            await self.turn(sid, content, is_announced=is_announced)
        return sid

    async def turn(
        self, sid: str, content: str, *answers: Message, is_announced: bool = True
    ) -> None:
        """A finished turn; without `answers` one message "re: ..."."""
        granted: Any = await self.store.begin(
            sid, ME, await self.large.keep(sid, user(content)), nonce=f"worker.{new_nonce()}"
        )
        await self.store.commit(
            granted.lease,
            Part(answers or [said(f"re: {content}")], ends_turn=True),
            expected_version=granted.version,
            commit_id=new_nonce(),
        )
        if is_announced:
            await self.store.outbox.announce(sid)

    async def history(self, sid: str) -> list[Message]:
        return (await self.store.read(sid, ME)).messages

    async def let_the_next_scan_be_due(self) -> None:
        await self.redis.delete(SCANNED)

    async def let_no_scan_be_due(self) -> None:
        await self.redis.set(SCANNED, 1)

    @property
    def archived(self) -> float | None:
        return self.metrics.registry.get_sample_value("hermes_archived_messages_total")


@pytest.fixture
async def desk(own_redis_server: RedisServer) -> AsyncIterator[Desk]:
    client = connect(own_redis_server.url)
    desk = Desk(client)
    await desk.let_no_scan_be_due()
    yield desk
    await client.aclose()


async def test_the_archive_gets_each_message_once_and_in_order(desk: Desk) -> None:
    sid, other = await desk.session("one", "two"), await desk.session("three")
    assert await desk.archiver().run_once() is True
    for each in (sid, other):
        assert desk.archive.kept[each] == await desk.history(each)
        assert desk.archive.owners[each] == ME
    await desk.turn(sid, "four")
    assert await desk.archiver().run_once() is True
    assert desk.archive.kept[sid] == await desk.history(sid)
    assert sorted(desk.archive.appends) == sorted([(sid, 0, 4), (sid, 4, 2), (other, 0, 2)])


async def test_without_anything_new_nothing_is_appended(desk: Desk) -> None:
    sid = await desk.session("one")
    await desk.archiver().run_once()
    assert await desk.archiver().run_once() is False
    await desk.store.outbox.announce(sid)
    assert await desk.archiver().run_once() is True
    assert desk.archive.appends == [(sid, 0, 2)]


async def test_a_long_history_comes_in_batches(desk: Desk) -> None:
    sid = await desk.session()
    await desk.turn(sid, "many", *(said(str(n)) for n in range(449)))
    await desk.archiver().run_once()
    assert desk.archive.appends == [(sid, 0, 200), (sid, 200, 200), (sid, 400, 50)]
    assert desk.archive.kept[sid] == await desk.history(sid)


async def test_a_large_text_is_whole_in_the_archive(desk: Desk) -> None:
    sid = await desk.session(BIG)
    assert "blob" in (await desk.history(sid))[0]
    await desk.archiver().run_once()
    assert desk.archive.kept[sid][0]["content"] == BIG


async def test_a_session_that_nobody_announced_is_found_by_the_look_through_all(
    desk: Desk,
) -> None:
    sid = await desk.session("one", is_announced=False)
    assert await desk.archiver().run_once() is False
    assert desk.archive.kept == {}
    await desk.let_the_next_scan_be_due()
    await desk.archiver().run_once()
    assert desk.archive.kept[sid] == await desk.history(sid)
    # One worker has scanned, so it is not due.
    assert 0 < await desk.redis.ttl(SCANNED) <= 1200


async def test_what_failed_is_archived_by_the_next_look_through_all(desk: Desk) -> None:
    sids = [await desk.session("one") for _ in range(3)]
    desk.archive.failures = [StorageUnavailable()]
    with pytest.raises(StorageUnavailable):
        await desk.archiver().run_once()
    assert len(desk.archive.kept) < 3
    await desk.let_the_next_scan_be_due()
    await desk.archiver().run_once()
    for sid in sids:
        assert desk.archive.kept[sid] == await desk.history(sid)
    assert len(desk.archive.appends) == 3


async def test_messages_whose_blob_cannot_be_read_wait_for_it(desk: Desk) -> None:
    sid = await desk.session(BIG)
    desk.blobs.is_away = True
    with pytest.raises(StorageUnavailable):
        await desk.archiver().run_once()
    assert desk.archive.appends == []
    desk.blobs.is_away = False
    await desk.store.outbox.announce(sid)
    await desk.archiver().run_once()
    assert desk.archive.kept[sid][0]["content"] == BIG


async def test_the_archiver_goes_on_after_failures(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "_PAUSE_S", 0.005)
    sid = await desk.session("one")
    desk.archive.failures = [StorageUnavailable()]
    running = spawn(desk.archiver().run(), name="archiver")
    await until(lambda: not desk.archive.failures)
    await desk.turn(sid, "two")
    await until(lambda: running.done() or desk.archive.kept)
    assert desk.archive.kept[sid] == await desk.history(sid)
    await cancel_and_wait(running)


async def test_the_archiver_goes_on_when_redis_is_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "_PAUSE_S", 0.005)
    take = desk.store.outbox.take
    failed = asyncio.Event()

    async def away_once() -> list[str]:
        if failed.is_set():
            return await take()
        failed.set()
        raise StoreUnavailable

    monkeypatch.setattr(desk.store.outbox, "take", away_once)
    sid = await desk.session("one")
    running = spawn(desk.archiver().run(), name="archiver")
    await until(lambda: running.done() or desk.archive.kept)
    assert desk.archive.kept[sid] == await desk.history(sid)
    await cancel_and_wait(running)


async def test_redis_that_goes_away_amid_the_look_through_all_is_only_unavailable(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.session("one")
    await desk.let_the_next_scan_be_due()

    async def lost(**_: Any) -> AsyncIterator[str]:
        raise RedisConnectionError("lost")
        yield ""

    monkeypatch.setattr(desk.redis, "scan_iter", lost)
    with pytest.raises(StoreUnavailable):
        await desk.archiver().run_once()


@pytest.mark.parametrize("passes", range(12))
async def test_an_archiver_ends_whenever_it_is_cancelled(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    """At each of its steps: redis-py swallows the cancellation at one of them."""
    monkeypatch.setattr(archiver, "_PAUSE_S", 0)
    await desk.archiver().run_once()
    running = spawn(desk.archiver().run(), name="archiver")
    for _ in range(passes):
        await asyncio.sleep(0)
    await cancel_and_wait(running)


async def test_an_operation_that_is_cancelled_does_not_go_on(desk: Desk) -> None:
    await desk.store.ping()
    swallowed = []
    for passes in range(12):
        running = spawn(desk.store.ping(), name="ping")
        for _ in range(passes):
            await asyncio.sleep(0)
        is_asked = running.cancel()
        await asyncio.wait({running})
        if is_asked and not running.cancelled():
            swallowed.append(passes)
    assert swallowed == []


async def test_an_archiver_that_died_before_its_mark_tells_again_what_is_known(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sid = await desk.session("one")

    async def dies(session_id: str, upto: int, *, fence: int) -> int:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(desk.store.outbox, "archived", dies)
        with pytest.raises(StoreUnavailable):
            await desk.archiver().run_once()
    await desk.turn(sid, "two")
    await desk.archiver().run_once()
    assert desk.archive.appends == [(sid, 0, 2), (sid, 0, 4)]
    assert desk.archive.kept[sid] == await desk.history(sid)


async def test_two_archivers_of_one_session_lose_and_repeat_nothing(desk: Desk) -> None:
    sid = await desk.session("one", "two")
    both = asyncio.Barrier(2)
    read = desk.store.outbox.read
    waits = [True, True]

    async def together(session_id: str) -> Any:
        found = await read(session_id)
        if waits:
            waits.pop()
            await both.wait()
        return found

    desk.store.outbox.read = together  # type: ignore[method-assign]
    one, other = desk.archiver(), desk.archiver()
    await asyncio.gather(one._archive_session(sid), other._archive_session(sid))
    assert desk.archive.appends == [(sid, 0, 4)] * 2
    assert desk.archive.kept[sid] == await desk.history(sid)
    # A slower one does not lower the watermark.
    fence = (await desk.store.outbox.read(sid)).fence
    await desk.store.outbox.archived(sid, 1, fence=fence)
    await desk.turn(sid, "three")
    await desk.archiver().run_once()
    assert desk.archive.appends[-1] == (sid, 4, 2)


async def test_a_deleted_session_is_deleted_from_the_archive(desk: Desk) -> None:
    sid = await desk.session("one")
    await desk.archiver().run_once()
    await desk.store.delete(sid, ME)
    await desk.store.outbox.announce(sid)
    await desk.archiver().run_once()
    assert (desk.archive.deleted, desk.archive.kept) == ([sid], {})


async def test_a_session_that_expired_meanwhile_is_left_alone(desk: Desk) -> None:
    gone, sid = await desk.session("one"), await desk.session("two")
    await desk.redis.delete(*session_keys(gone))
    await desk.archiver().run_once()
    assert list(desk.archive.kept) == [sid]
    assert desk.archive.deleted == []


async def test_a_turn_of_a_worker_is_archived_with_its_end_and_deleted_with_its_session(
    own_redis_server: RedisServer, start_worker: StartWorker
) -> None:
    archive = FakeArchive()
    worker = await start_worker(
        redis_url=own_redis_server.url,
        engine=PlannedEngine(speech("hi")),
        storages=Storages(archive=archive),
    )
    sid = await create(worker)
    assert (await post(worker, sid, "hello")).status == 200
    await until(lambda: len(archive.kept.get(sid, ())) == 2)
    assert archive.kept[sid] == [user("hello"), said("hi")]
    assert archive.owners[sid] == ANONYMOUS
    async with worker.delete(sid) as response:
        assert response.status == 204
    await until(lambda: archive.deleted)
    assert archive.kept == {}
