"""The stream of a chat is resumed after any chunk, on any worker, with a session or without."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import make_mocked_request

from agent_worker.api.chat_chunks import AnswerChanged, ChunkStream, Completion, event_before
from agent_worker.models import TextDelta, ToolCall
from agent_worker.runtime.holders import worker_channel
from agent_worker.sessions import Event
from agent_worker.tools import Toolbox
from tests.support.agent.chat import CLOCK, MODEL, user
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine
from tests.support.waiting import until

if TYPE_CHECKING:
    import aiohttp
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker

PATH = "/v1/chat/completions"
ACCEPTS = {"X-Hermes-Handover": "accept"}
NEW = {"X-Hermes-Session-Id": "new"}
KINDS = {"kept": NEW, "stateless": ACCEPTS}
UNTOLD = ("", "", "")


def ask(worker: RunningWorker, headers: dict[str, str], **more: Any) -> Any:
    body = {"model": MODEL, "messages": [user("go")], "stream": True, **more}
    return worker.http.post(PATH, json=body, headers=headers)


def go_on(worker: RunningWorker, path: str, behind: str | None = None, **headers: str) -> Any:
    if behind is not None:
        headers["Last-Event-ID"] = behind
    return worker.http.get(path, headers=headers)


async def next_chunk(response: aiohttp.ClientResponse) -> tuple[str, Any] | None:
    """Id and data of the next chunk; None at the end."""
    lines = []
    while (line := (await response.content.readline()).decode()) != "\n":
        if not line:
            assert not lines
            return None
        lines.append(line.rstrip("\n").split(": ", 1))
    names, values = zip(*lines, strict=True)
    assert names in (("data",), ("id", "data"), ("event", "data"))
    data = values[-1]
    return "" if names == ("data",) else values[0], data if data == "[DONE]" else json.loads(data)


async def chunks_in(response: aiohttp.ClientResponse) -> list[tuple[str, Any]]:
    assert response.status == 200, await response.text()
    chunks = []
    while (chunk := await next_chunk(response)) is not None:
        chunks.append(chunk)
    return chunks


def text_in(chunks: list[tuple[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for _, data in chunks
        if data != "[DONE]"
        for choice in data["choices"]
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_whoever_has_the_first_chunks_gets_the_others(
    start_worker: StartWorker, kind: str
) -> None:
    worker, other = await start_worker(), await start_worker()
    more: dict[str, Any] = {"stream_options": {"include_usage": True}}
    if kind == "stateless":
        more |= {"tools": [CLOCK], "messages": [user("what time is it?")]}
    else:
        more["messages"] = [user("calculate 2 + 3")]
    async with ask(worker, KINDS[kind], **more) as response:
        path = response.headers["X-Hermes-Resume"]
        chunks = await chunks_in(response)
    assert chunks[-1][1] == "[DONE]"
    ids = [chunk_id for chunk_id, _ in chunks]
    assert all(ids)
    assert len(set(ids)) == len(ids) > 6
    async with go_on(other, path) as response:
        assert response.headers["X-Hermes-Resume"] == path
        assert response.headers["Content-Type"] == "text/event-stream"
        is_kept = "X-Hermes-Session-Id" in response.headers
        assert is_kept == ("X-Session-Durability" not in response.headers) == (kind == "kept")
        assert await chunks_in(response) == chunks
    for number, chunk_id in enumerate(ids, 1):
        async with go_on(other, path, chunk_id) as response:
            assert await chunks_in(response) == chunks[number:]


async def test_a_replayed_stream_goes_on_as_well(worker: RunningWorker) -> None:
    async with ask(worker, NEW) as response:
        sid = response.headers["X-Hermes-Session-Id"]
        await response.read()
    keyed = {"X-Hermes-Session-Id": sid, "Idempotency-Key": "k"}
    async with ask(worker, keyed) as response:
        first = await chunks_in(response)
    async with ask(worker, keyed) as response:
        assert response.headers["Idempotency-Replayed"] == "true"
        path = response.headers["X-Hermes-Resume"]
        again = await chunks_in(response)
    assert text_in(again) == text_in(first)
    for number, (chunk_id, _) in enumerate(again, 1):
        async with go_on(worker, path, chunk_id) as response:
            rest = await chunks_in(response)
        # All of the text is one chunk.
        assert text_in(again[:number]) + text_in(rest) == text_in(first)
        assert rest[-2:] == again[number:][-2:]


async def test_without_a_session_only_who_goes_on_elsewhere_costs_a_journal(
    start_worker: StartWorker, own_redis_server: RedisServer
) -> None:
    worker = await start_worker(redis_url=own_redis_server.url)
    redis = worker.worker.store._operations.client.raw
    async with ask(worker, {}) as response:
        assert "X-Hermes-Resume" not in response.headers
        assert not any(chunk_id for chunk_id, _ in await chunks_in(response))
    async with ask(worker, ACCEPTS, stream=False) as response:
        assert "X-Hermes-Resume" not in response.headers
    heartbeats = await redis.keys("hermes:heartbeat:*")
    assert set(await redis.keys("*")) <= set(heartbeats)
    async with ask(worker, ACCEPTS) as response:
        await response.read()
    assert await redis.keys("hermes:{*") == []
    assert await redis.keys("hermes:chat:*") != []


async def test_the_leases_of_chats_name_the_worker_by_the_channel_that_it_subscribes_to(
    start_worker: StartWorker, redis: Redis
) -> None:
    """Otherwise other workers would find no subscription, and consider it dead."""
    worker = await start_worker(engine=(engine := GatedEngine()))
    name = worker.worker.turns.name
    async with ask(worker, ACCEPTS) as response:
        await engine.started.wait()
        sid = response.headers["X-Hermes-Resume"].partition("session=")[2].partition("&")[0]
        holder = (await redis.get(f"hermes:chat:{{{sid}}}:lease")).partition("|")[2]
        assert holder.startswith(f"{name}.")
        engine.gate.set()
        await response.read()
    # Those that were taken over.
    assert worker.worker.chat_turns.name == name
    assert await redis.pubsub_numsub(worker_channel(name)) == [(worker_channel(name), 1)]


async def test_a_journal_lives_for_an_hour_and_for_a_minute_when_its_turn_has_ended(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    async with ask(worker, ACCEPTS) as response:
        await engine.started.wait()
        sid = response.headers["X-Hermes-Resume"].partition("session=")[2].partition("&")[0]
        keys = await redis.keys(f"hermes:chat:{{{sid}}}:*")
        lives = {key.rpartition(":")[2]: await redis.pttl(key) for key in keys}
        assert lives.pop("lease") <= 30_000
        assert set(lives) == {"meta", "msgs", "ev"}
        assert all(3_000_000 < life <= 3_600_000 for life in lives.values())
        engine.gate.set()
        await response.read()
    keys = await redis.keys(f"hermes:chat:{{{sid}}}:*")
    assert {key.rpartition(":")[2] for key in keys} == {"meta", "msgs", "ev"}
    for key in keys:
        assert 50_000 < await redis.pttl(key) <= 60_000
    # It is not a session.
    async with worker.get(sid) as hidden:
        assert hidden.status == 404
    async with worker.get(sid, "events") as hidden:
        assert hidden.status == 404


async def test_a_client_that_leaves_ends_the_turn_and_may_come_back_to_it(
    start_worker: StartWorker,
) -> None:
    """Only its connection to this worker may be lost: the turn continues where it reconnects."""
    worker = await start_worker(engine=(engine := GatedEngine()))
    other = await start_worker(engine=(rest := GatedEngine()))
    rest.gate.set()
    async with ask(worker, ACCEPTS) as response:
        path = response.headers["X-Hermes-Resume"]
        (first, _), (second, _) = await next_chunk(response) or UNTOLD, await next_chunk(response)
        assert first
    await engine.closed.wait()
    await worker.worker.turns.wait_idle()
    async with go_on(other, path, second) as response:
        chunks = await chunks_in(response)
    assert text_in(chunks) == "two"
    assert chunks[-1][1] == "[DONE]"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_that_shuts_down_hands_the_stream_over(
    start_worker: StartWorker, kind: str
) -> None:
    at_tool, gate = asyncio.Event(), asyncio.Event()

    async def look(arguments: Any, context: Any) -> str:
        at_tool.set()
        await gate.wait()
        return "seen"

    toolbox = Toolbox([FunctionTool("look", look)])
    begun = PlannedEngine([TextDelta("one "), ToolCall("c1", "look")])
    worker = await start_worker(engine=begun, toolbox=toolbox)
    other = await start_worker(engine=PlannedEngine([TextDelta("two")]), toolbox=toolbox)
    async with ask(worker, KINDS[kind] | ACCEPTS) as response:
        path = response.headers["X-Hermes-Resume"]
        await at_tool.wait()
        worker.worker.hand_over()
        gate.set()
        *chunks, (name, said) = await chunks_in(response)
    assert (name, list(said)) == ("handover", ["turn"])
    async with go_on(worker, path, chunks[-1][0], **ACCEPTS) as refused:
        assert refused.status == 503
    async with go_on(other, path, chunks[-1][0], **ACCEPTS) as response:
        chunks += await chunks_in(response)
    assert text_in(chunks) == "one two"
    assert chunks[-1][1] == "[DONE]"


@pytest.mark.parametrize("harm", ["stops", "hangs"])
async def test_a_stream_without_a_session_goes_on_when_redis_is_lost(
    start_worker: StartWorker,
    own_redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
) -> None:
    """It can no longer be resumed, and its ids say so: a resumed stream would repeat chunks."""
    monkeypatch.setattr("agent_worker.runtime.journal._WRITE_TIMEOUT_S", 0.2)
    worker = await start_worker(engine=(engine := GatedEngine()), redis_url=own_redis_server.url)
    async with ask(worker, ACCEPTS) as response:
        path = response.headers["X-Hermes-Resume"]
        kept = [await next_chunk(response), await next_chunk(response)]
        if harm == "stops":
            own_redis_server.stop()
        else:
            os.kill(own_redis_server.pid, signal.SIGSTOP)
        engine.gate.set()
        chunks = await chunks_in(response)
    assert text_in(chunks) == "two"
    assert [chunk_id for chunk_id, _ in chunks] == ["unkept"] * len(chunks)
    assert all(chunk and chunk[0] not in ("", "unkept") for chunk in kept)
    assert chunks[-1][1] == "[DONE]"
    # The next ones do not wait.
    engine.started.clear()
    async with ask(worker, ACCEPTS) as response:
        assert "X-Hermes-Resume" not in response.headers
        assert text_in(await chunks_in(response)) == "one two"
    if harm == "hangs":
        os.kill(own_redis_server.pid, signal.SIGCONT)
        async with go_on(worker, path, "unkept") as response:
            assert response.status == 410
        worker.worker.chat_resume.journals._not_before = 0.0
        async with ask(worker, ACCEPTS) as response:
            assert "X-Hermes-Resume" in response.headers
            chunks = await chunks_in(response)
        assert all(chunk_id[0].isdigit() for chunk_id, _ in chunks)


async def test_a_journal_that_is_taken_from_its_worker_does_not_end_the_stream(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    async with ask(worker, ACCEPTS) as response:
        await engine.started.wait()
        sid = response.headers["X-Hermes-Resume"].partition("session=")[2].partition("&")[0]
        await redis.set(f"hermes:chat:{{{sid}}}:lease", "9|another")
        engine.gate.set()
        chunks = await chunks_in(response)
    assert text_in(chunks) == "one two"
    assert chunks[-1] == ("unkept", "[DONE]")


async def test_who_may_not_go_on(start_worker: StartWorker) -> None:
    tokens = {"t-ada": "ada", "t-bob": "bob"}
    worker = await start_worker(tokens=tokens)
    ada, bob = ({"Authorization": f"Bearer {token}"} for token in tokens)
    for kind in KINDS.values():
        async with ask(worker, kind | ada) as response:
            path = response.headers["X-Hermes-Resume"]
            (first, _), *_ = await chunks_in(response)
        for headers, changed, status in (
            (bob, path, 404),
            ({}, path, 401),
            (ada, path.replace("turn=", "turn=1"), 410),
            (ada, path.replace("turn=", "turn=x"), 400),
            (ada, path.replace("session=", "session=x"), 404),
            (ada, path.partition("?")[0], 400),
            (ada, path.replace("chatcmpl-", "chatcmpl-x"), 404),
        ):
            async with go_on(worker, changed, first, **headers) as response:
                assert (response.status, changed) == (status, changed)
                assert set((await response.json())["error"]) == {"message", "type", "param", "code"}
        for behind in ("unkept", "", "x", "1-2.x", "1"):
            async with go_on(worker, path, behind, **ada) as response:
                assert response.status == 410


async def test_an_engine_that_fails_is_the_last_chunk_of_a_stream_that_goes_on(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(engine=PlannedEngine([TextDelta("a"), RuntimeError("s3cret")]))
    async with ask(worker, ACCEPTS) as response:
        path = response.headers["X-Hermes-Resume"]
        chunks = await chunks_in(response)
    error = chunks[-1][1]["error"]
    assert (error["code"], error["type"]) == ("engine_failed", "server_error")
    async with go_on(worker, path, chunks[1][0]) as response:
        assert await chunks_in(response) == chunks[2:]


async def test_a_stream_whose_beginning_is_trimmed_goes_on_behind_its_last_chunk(
    worker: RunningWorker, redis: Redis
) -> None:
    async with ask(worker, ACCEPTS) as response:
        path = response.headers["X-Hermes-Resume"]
        chunks = await chunks_in(response)
    sid = path.partition("session=")[2].partition("&")[0]
    await redis.xtrim(f"hermes:chat:{{{sid}}}:ev", maxlen=3, approximate=False)
    # Of two words and the end, which is two chunks.
    for number in range(-3, 0):
        async with go_on(worker, path, chunks[number - 1][0]) as response:
            assert await chunks_in(response) == chunks[number:]
    for behind in (None, chunks[0][0]):
        async with go_on(worker, path, behind) as response:
            assert response.status == 410


# Restarted steps.


class _Written:
    def __init__(self) -> None:
        self.chunks: list[tuple[str, str]] = []

    async def write(self, data: bytes) -> None:
        head, _, line = data.decode().rstrip("\n").partition("\n")
        if line == "data: [DONE]":
            return
        delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
        if "content" in delta:
            self.chunks.append((head.removeprefix("id: "), delta["content"]))


def chunk_stream(**options: Any) -> tuple[ChunkStream, list[tuple[str, str]]]:
    completion = Completion("chatcmpl-1", 1, MODEL, 1)
    request = make_mocked_request("GET", "/")
    stream = ChunkStream(request, {}, completion, "7", **options)
    stream._response = written = _Written()  # type: ignore[assignment]
    return stream, written.chunks


def said(event_id: str, text: str) -> Event:
    return Event(event_id, "message.delta", json.dumps({"content": text}))


def rewind(event_id: str, to: str) -> Event:
    return Event(event_id, "rewind", json.dumps({"id": to}))


TOOL = Event("7-3", "tool.started", "{}")
DONE = Event("9-9", "done", json.dumps({"content": "x", "is_final": True}))


@pytest.mark.parametrize(
    ("events", "chunks"),
    [
        pytest.param(
            [said("7-1", "one "), said("7-2", "two "), rewind("8-1", "7-0"),
             said("8-2", "one two "), said("8-3", "three")],
            [("7-1", "one "), ("7-2", "two "), ("8-3", "three")],
            id="the-same",
        ),
        pytest.param(
            [said("7-1", "one "), rewind("8-1", "7-0"), said("8-2", "o"), said("8-3", "ne two")],
            [("7-1", "one "), ("8-3", "two")],
            id="other-pieces",
        ),
        pytest.param(
            [said("7-1", "first "), TOOL, said("7-4", "one "), rewind("8-1", "7-3"),
             said("8-2", "one "), said("8-3", "two")],
            [("7-1", "first "), ("7-4", "one "), ("8-3", "two")],
            id="the-second-step",
        ),
        pytest.param(
            [said("7-1", "one "), said("7-2", "two"), rewind("8-1", "7-0"), said("8-2", "one "),
             rewind("9-1", "7-0"), said("9-2", "one two three")],
            [("7-1", "one "), ("7-2", "two"), ("9-2", " three")],
            id="twice",
        ),
        pytest.param(
            [said("7-1", "one "), rewind("8-1", "7-0"), said("8-2", "one two "),
             rewind("9-1", "7-0"), said("9-2", "one two three")],
            [("7-1", "one "), ("8-2", "two "), ("9-2", "three")],
            id="twice-and-further",
        ),
        pytest.param([rewind("8-1", "7-0"), said("8-2", "a")], [("8-2", "a")], id="nothing-said"),
    ],
)  # fmt: skip
async def test_a_step_that_says_the_same_again_is_not_seen(
    events: list[Event], chunks: list[tuple[str, str]]
) -> None:
    stream, written = chunk_stream()
    for event in [*events, DONE]:
        await stream.send(event)
    assert written == chunks
    # The same for a client that resumes after any of the chunks.
    for number, (chunk_id, _) in enumerate(chunks, 1):
        stream, written = chunk_stream(behind=chunk_id)
        for event in [*events, DONE]:
            await stream.send(event)
        assert written == chunks[number:]


@pytest.mark.parametrize(
    ("events", "after"),
    [
        ([said("7-1", "one "), rewind("8-1", "7-0"), said("8-2", "a")], None),
        ([said("7-1", "one "), rewind("8-1", "7-0"), said("8-2", "on"), DONE], None),
        ([said("7-5", "one "), rewind("8-1", "7-0")], "7-4"),
    ],
)
async def test_a_step_that_says_something_else_ends_the_stream(
    events: list[Event], after: str | None
) -> None:
    """Or one whose earlier text is unknown."""
    stream, _ = chunk_stream(after=after)
    for event in events[:-1]:
        await stream.send(event)
    with pytest.raises(AnswerChanged):
        await stream.send(events[-1])


async def test_an_answer_that_changed_is_reported_as_an_error(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    other = await start_worker(engine=PlannedEngine([TextDelta("something else")]))
    async with ask(worker, ACCEPTS) as response:
        path = response.headers["X-Hermes-Resume"]
        await next_chunk(response)
        last = await next_chunk(response)
    assert last is not None
    await engine.closed.wait()
    await worker.worker.turns.wait_idle()
    async with go_on(other, path, last[0]) as response:
        ((_, told),) = await chunks_in(response)
    assert told["error"]["code"] == "answer_changed"
    await until(lambda: len(other.worker.turns) == 0)


@pytest.mark.parametrize(
    ("chunk_id", "event_id"), [("7-3", "7-3"), ("7-3.1", "7-2"), ("7-3.12", "7-2"), ("7-0", "7-0")]
)
def test_the_last_event_that_is_had_as_a_whole(chunk_id: str, event_id: str) -> None:
    assert event_before(chunk_id) == event_id
