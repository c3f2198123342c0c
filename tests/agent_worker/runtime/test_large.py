"""Texts over 32 KB: a reference in Redis, whole for the model, truncated without a blob store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from agent_worker.runtime import LargeTexts
from agent_worker.runtime.large import LARGE
from agent_worker.storage.base import BlobMissing, Storages, StorageUnavailable
from agent_worker.tasks import spawn
from agent_worker.tools import Toolbox
from tests.support.agent.engines import FunctionTool, PlannedEngine
from tests.support.agent.runtime import (
    ANONYMOUS,
    SID,
    SSE,
    PausedEngine,
    amid_a_turn,
    asks,
    create,
    die,
    post,
    result,
    said,
    speech,
    user,
)
from tests.support.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker


@dataclass
class FakeBlobs:
    is_away: bool = False
    kept: dict[str, bytes] = field(default_factory=dict)

    async def put(self, session_id: str, data: bytes) -> str:
        if self.is_away:
            raise StorageUnavailable
        key = f"{session_id}/{hashlib.sha256(data).hexdigest()}"
        self.kept[key] = data
        return key

    async def get(self, key: str) -> bytes:
        if self.is_away:
            raise StorageUnavailable
        if key not in self.kept:
            raise BlobMissing
        return self.kept[key]

    async def delete_session(self, session_id: str) -> None:
        for key in [key for key in self.kept if key.startswith(session_id + "/")]:
            del self.kept[key]

    async def close(self) -> None:
        pass


@pytest.fixture
def blobs() -> FakeBlobs:
    return FakeBlobs()


# 'ä' has two bytes: this number of characters is not large, one more is.
JUST_SMALL = "ä" * (LARGE // 2)
BIG = "ä" * (LARGE // 2) + "!"


@pytest.mark.parametrize("content", ["", "hello", "x" * LARGE, JUST_SMALL, "😀" * (LARGE // 4)])
async def test_a_text_up_to_the_limit_stays_as_it_is(blobs: FakeBlobs, content: str) -> None:
    message = user(content)
    assert await LargeTexts(blobs).keep(SID, message) is message
    assert blobs.kept == {}


@pytest.mark.parametrize("content", ["x" * (LARGE + 1), BIG, "😀" * (LARGE // 4) + "x"])
async def test_a_text_over_the_limit_is_kept_by_reference(blobs: FakeBlobs, content: str) -> None:
    kept = await LargeTexts(blobs).keep(SID, message := said(content))
    size = len(content.encode())
    key = f"{SID}/{hashlib.sha256(content.encode()).hexdigest()}"
    assert blobs.kept == {key: content.encode()}
    assert (kept["blob"], kept["size"], kept["role"]) == (key, size, "assistant")
    assert kept["content"] == content[:2000] + f"\n[... {size} bytes in all: blob {key}]"
    assert message["content"] == content
    assert "blob" not in message


async def test_a_reference_keeps_whatever_else_the_message_has(blobs: FakeBlobs) -> None:
    calls = [{"id": "c1", "name": "look", "arguments": {}}]
    kept = await LargeTexts(blobs).keep(SID, said(BIG, *calls))
    assert kept["tool_calls"] == calls
    kept = await LargeTexts(blobs).keep(SID, result(BIG, "look", "c1"))
    assert (kept["tool_call_id"], kept["name"]) == ("c1", "look")


async def test_texts_are_restored_for_the_model_but_results_are_read_by_reference(
    blobs: FakeBlobs,
) -> None:
    large = LargeTexts(blobs)
    history = [user(BIG), said(BIG + "a"), result(BIG + "r"), user("small")]
    kept = [await large.keep(SID, message) for message in history]
    restored = await large.restore(kept)
    assert [m["content"] for m in restored[:2]] == [BIG, BIG + "a"]
    assert restored[2:] == kept[2:]
    # The reference is kept: the restored text must not be stored whole.
    assert restored[0]["blob"] == kept[0]["blob"]
    assert await large.whole(kept[2]) == {**kept[2], "content": BIG + "r"}


async def test_a_blob_that_is_gone_leaves_the_beginning(blobs: FakeBlobs) -> None:
    large = LargeTexts(blobs)
    kept = await large.keep(SID, user(BIG))
    blobs.kept.clear()
    assert await large.restore([kept]) == [kept]


async def test_without_the_blob_store_for_a_moment_nothing_is_restored(blobs: FakeBlobs) -> None:
    large = LargeTexts(blobs)
    kept = await large.keep(SID, user(BIG))
    blobs.is_away = True
    with pytest.raises(StorageUnavailable):
        await large.restore([kept])


@pytest.mark.parametrize("message", [user(BIG), said(BIG)])
async def test_without_a_blob_store_texts_are_kept_whole(message: Any) -> None:
    assert await LargeTexts(None).keep(SID, message) is message


@pytest.mark.parametrize("message", [user(BIG), said(BIG)])
async def test_while_the_blob_store_is_away_texts_cannot_be_kept(message: Any) -> None:
    with pytest.raises(StorageUnavailable):
        await LargeTexts(FakeBlobs(is_away=True)).keep(SID, message)


@pytest.mark.parametrize("blobs", [None, FakeBlobs(is_away=True)])
async def test_results_are_cut_where_there_is_no_place_for_them(blobs: Any) -> None:
    # One byte before the pairs: the cut is in the middle of a character, which is dropped.
    content = "x" + BIG
    cut = await LargeTexts(blobs).keep(SID, result(content))
    size = len(content.encode())
    kept = "x" + "ä" * (LARGE // 2 - 1)
    assert cut == result(f"{kept}\n[... cut; {size} bytes in all]")


# Through a worker.


async def test_a_large_message_is_a_reference_in_redis_and_whole_for_the_model(
    start_worker: StartWorker, store: SessionStore, blobs: FakeBlobs
) -> None:
    engine = PlannedEngine(speech(BIG + "answer"), speech("ok"))
    worker = await start_worker(engine=engine, storages=Storages(blobs=blobs))
    sid = await create(worker)
    reply = await post(worker, sid, BIG)
    assert reply.body["content"] == BIG + "answer"
    asked, answered = (await store.read(sid, ANONYMOUS)).messages
    assert {asked["blob"], answered["blob"]} == set(blobs.kept)
    assert len(asked["content"]) < 2200
    await post(worker, sid, "and now?")
    assert [m["content"] for m in engine.histories[0]] == [BIG]
    assert [m["content"] for m in engine.histories[1]] == [BIG, BIG + "answer", "and now?"]


async def test_the_blob_of_a_message_is_fetched_as_it_is_given(
    start_worker: StartWorker, blobs: FakeBlobs
) -> None:
    engine = PlannedEngine(speech("ok"))
    tokens = {"t-ada": "ada", "t-bob": "bob"}
    worker = await start_worker(engine=engine, storages=Storages(blobs=blobs), tokens=tokens)
    ada, bob = ({"Authorization": f"Bearer {token}"} for token in tokens)
    async with worker.post(headers=ada) as response:
        sid = (await response.json())["session_id"]
    async with worker.post(headers=bob) as response:
        other = (await response.json())["session_id"]
    url = worker.sessions(sid, "messages")
    async with worker.http.post(url, json={"content": BIG}, headers=ada) as response:
        assert response.status == 200
    async with worker.get(sid, headers=ada) as response:
        given = (await response.json())["messages"][0]["blob"]
    digest = given.partition("/")[2]
    # Its hash is enough within the session.
    for blob in (given, given.replace("/", "%2F"), digest):
        url = URL(worker.sessions(sid, "blobs", blob), encoded=True)
        async with worker.http.get(url, headers=ada) as response:
            assert (response.status, response.content_type) == (200, "text/plain")
            assert await response.text() == BIG
        async with worker.http.get(url, headers=bob) as response:
            assert response.status == 404
        async with worker.http.get(url) as response:
            assert response.status == 401
    for path, headers in (
        ((other, "blobs", given), bob),
        ((other, "blobs", digest), bob),
        ((sid, "blobs", given, "x"), ada),
        ((sid, "blobs", f"{other}/{digest}"), ada),
        ((sid, "blobs", "0" * 64), ada),
        ((sid, "blobs", "x"), ada),
    ):
        async with worker.get(*path, headers=headers) as response:
            assert response.status == 404


async def test_a_repeated_key_replays_a_large_answer_whole(
    start_worker: StartWorker, blobs: FakeBlobs
) -> None:
    engine = PlannedEngine(speech(BIG + "answer"))
    worker = await start_worker(engine=engine, storages=Storages(blobs=blobs))
    sid = await create(worker)
    first = await post(worker, sid, "go", Idempotency_Key="k")
    again = await post(worker, sid, "go", Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(again.body["content"]) == len(first.body["content"])


async def test_a_repeated_key_knows_a_large_message_again(
    start_worker: StartWorker, blobs: FakeBlobs
) -> None:
    engine = PlannedEngine(speech("answer"))
    worker = await start_worker(engine=engine, storages=Storages(blobs=blobs))
    sid = await create(worker)
    for _ in range(2):
        reply = await post(worker, sid, BIG, Idempotency_Key="k")
        assert (reply.status, reply.body["content"]) == (200, "answer")
    assert reply.headers["Idempotency-Replayed"] == "true"
    # It differs after the part that is in Redis.
    other = await post(worker, sid, BIG + "?", Idempotency_Key="k")
    assert (other.status, other.error) == (409, "idempotency_mismatch")


async def test_a_turn_that_is_taken_over_tells_its_large_steps_whole(
    start_worker: StartWorker, redis: Redis, blobs: FakeBlobs
) -> None:
    async def look(arguments: Any, context: Any) -> str:
        return "seen"

    storages, toolbox = Storages(blobs=blobs), Toolbox([FunctionTool("look", look)])
    dying = PausedEngine([*speech(BIG), asks("look")], [None])
    first = await start_worker(engine=dying, storages=storages, toolbox=toolbox)
    engine = PlannedEngine(speech("end"))
    second = await start_worker(engine=engine, storages=storages, toolbox=toolbox)
    sid = await create(first)
    turn = spawn(post(first, sid, "go", Idempotency_Key="k"), name="turn")
    turn.add_done_callback(lambda task: task.cancelled() or task.exception())
    await dying.paused.wait()
    await die(first, redis, sid)
    headers = {**SSE, "Idempotency-Key": "k"}
    async with second.post(sid, "messages", json={"content": "go"}, headers=headers) as response:
        data = await response.read()
    events = [line for line in data.decode().split("\n\n") if line]
    told = "".join(
        json.loads(event.split("data: ")[1])["content"]
        for event in events
        if "event: message.delta" in event
    )
    assert len(told) == len(BIG + "end")
    assert told == json.loads(events[-1].split("data: ")[1])["content"]


async def test_large_texts_of_a_turn_in_several_steps_make_its_answer_whole(
    start_worker: StartWorker, store: SessionStore, blobs: FakeBlobs
) -> None:
    async def look(arguments: Any, context: Any) -> str:
        return BIG + "result"

    engine = PlannedEngine([*speech(BIG), asks("look")], speech("end"))
    worker = await start_worker(
        engine=engine,
        storages=Storages(blobs=blobs),
        toolbox=Toolbox([FunctionTool("look", look)]),
    )
    sid = await create(worker)
    assert (await post(worker, sid, "go")).body["content"] == BIG + "end"
    kept = (await store.read(sid, ANONYMOUS)).messages
    assert ["blob" in message for message in kept] == [False, True, True, False]
    # The model gets a preview of a tool result, and how to read on.
    seen = engine.histories[1]
    assert seen[1]["content"] == BIG
    assert seen[2] == kept[2]


async def test_a_large_message_that_was_queued_is_whole_for_the_model(
    start_worker: StartWorker, blobs: FakeBlobs
) -> None:
    engine = PausedEngine([None], speech("ok"))
    worker = await start_worker(engine=engine, storages=Storages(blobs=blobs))
    sid, running = await amid_a_turn(worker, engine.paused)
    assert (await post(worker, sid, BIG, "enqueue")).status == 202
    engine.gate.set()
    await running
    await until(lambda: len(engine.histories) == 2)
    assert engine.histories[1][-1]["content"] == BIG
    await worker.worker.turns.wait_idle()


async def test_a_large_message_is_refused_while_the_blob_store_is_away(
    start_worker: StartWorker, store: SessionStore
) -> None:
    blobs = FakeBlobs(is_away=True)
    engine = PlannedEngine(speech("ok"))
    worker = await start_worker(engine=engine, storages=Storages(blobs=blobs))
    sid = await create(worker)
    reply = await post(worker, sid, BIG)
    assert (reply.status, reply.error) == (503, "storage_unavailable")
    assert "Retry-After" in reply.headers
    assert (await store.read(sid, ANONYMOUS)).messages == []
    assert (await post(worker, sid, "small")).status == 200


async def test_without_a_blob_store_a_large_message_is_kept_whole(
    start_worker: StartWorker, store: SessionStore
) -> None:
    worker = await start_worker(engine=(engine := PlannedEngine(speech("ok"))))
    sid = await create(worker)
    assert (await post(worker, sid, BIG)).status == 200
    assert engine.histories[0][0]["content"] == BIG
    assert (await store.read(sid, ANONYMOUS)).messages[0] == user(BIG)
