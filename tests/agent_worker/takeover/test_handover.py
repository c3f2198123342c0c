"""A worker that shuts down hands its turns over, if their clients accept that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import Draining
from agent_worker.runtime import TurnRequest
from agent_worker.runtime import turn as turns
from agent_worker.sessions import session_keys
from agent_worker.tasks import spawn
from agent_worker.tools import Toolbox
from tests.support.agent.engines import FunctionTool, PlannedEngine
from tests.support.agent.runtime import SSE, PausedEngine, asks, create, die, post, speech, told
from tests.support.agent.takeover import ACCEPTS, Client, open_turn, resume
from tests.support.sse import all_events, deltas, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


async def _look(arguments: Any, context: Any) -> str:
    return "seen"


BOX = Toolbox([FunctionTool("look", _look)])
GONE_ON = [("user", "go"), ("assistant", "I look. "), ("tool", "seen"), ("assistant", "I see.")]


def first_step() -> PausedEngine:
    """It says something, waits, and asks for a tool; then it would end the turn."""
    return PausedEngine([*speech("I look. "), None, asks("look")], speech("Here."))


async def leave(worker: RunningWorker, how: str) -> None:
    if how == "SIGTERM":
        await worker.worker.drain()
    else:
        async with worker.http.post("/drain") as response:
            assert response.status == 202


@pytest.mark.parametrize("how", ["SIGTERM", "POST /drain"])
async def test_a_turn_is_handed_over_behind_its_step_and_goes_on_elsewhere(
    start_worker: StartWorker, redis: Redis, store: SessionStore, how: str
) -> None:
    engine = first_step()
    first = await start_worker(engine=engine, toolbox=BOX)
    other = await start_worker(engine=PlannedEngine(speech("I see.")), toolbox=BOX)
    sid = await create(first)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        path = stream.headers["X-Hermes-Resume"]
        events = read_events(stream)
        seen = [await anext(events)]
        await leave(first, how)
        engine.gate.set()
        rest = [event async for event in events]
    assert (rest[-1].id, rest[-1].name) == ("", "handover")
    assert rest[-1].data == {"turn": path.partition("=")[2]}
    seen += rest[:-1]
    log = await redis.xrange(session_keys(sid)[4])
    assert [event_id for event_id, _ in log] == [event.id for event in seen]
    async with resume(other, path, seen[-1].id) as response:
        seen += await all_events(response)
    assert deltas(seen) == seen[-1].data["content"] == "I look. I see."
    assert await told(store, sid) == GONE_ON
    await first.worker.turns.wait_idle()


async def test_a_turn_in_its_last_step_ends_here(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := PausedEngine([*speech("one "), None])))
    sid = await create(worker)
    async with await open_turn(worker, sid, **ACCEPTS) as stream:
        events = read_events(stream)
        await anext(events)
        await worker.worker.drain()
        engine.gate.set()
        assert [event.name async for event in events] == ["done"]


@pytest.mark.parametrize("kind", ["stream", "JSON"])
async def test_a_client_that_does_not_go_on_elsewhere_keeps_its_worker(
    start_worker: StartWorker, store: SessionStore, kind: str
) -> None:
    """Its request had no such header; or it is not for a stream."""
    engine = first_step()
    worker = await start_worker(engine=engine, toolbox=BOX)
    sid = await create(worker)
    headers = SSE if kind == "stream" else ACCEPTS
    asked = spawn(
        worker.post(sid, "messages", json={"content": "go"}, headers=headers), name="turn"
    )  # type: ignore[arg-type]
    await engine.paused.wait()
    await worker.worker.drain()
    engine.gate.set()
    async with await asked as response:
        assert response.status == 200
        if kind == "stream":
            assert (await all_events(response))[-1].name == "done"
        else:
            assert (await response.json())["content"] == "I look. Here."
    assert [role for role, _ in await told(store, sid)] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


@pytest.mark.parametrize("headers", [ACCEPTS, {}])
async def test_who_follows_the_turn_of_another_worker_goes_on_at_once(
    start_worker: StartWorker, headers: dict[str, str]
) -> None:
    first = await start_worker(engine=(engine := PausedEngine([*speech("one "), None])))
    leaving = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    async with await open_turn(first, sid) as stream:
        path = stream.headers["X-Hermes-Resume"]
        async with resume(leaving, path, "0-1", **headers) as response:
            events = read_events(response)
            assert (await anext(events)).data == {"content": "one "}
            await leaving.worker.drain()
            rest = [(event.id, event.name) async for event in events]
        assert rest == ([("", "handover")] if headers else [])
        engine.gate.set()
        assert (await all_events(stream))[-1].name == "done"


@pytest.mark.parametrize("how", ["SIGTERM", "POST /drain"])
async def test_a_worker_that_leaves_takes_nothing_over(
    start_worker: StartWorker, redis: Redis, how: str
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("one "), None]))
    leaving = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    stream = await open_turn(first, sid)
    seen = await anext(read_events(stream))
    await die(first, redis, sid)
    await leave(leaving, how)
    async with resume(leaving, stream.headers["X-Hermes-Resume"], seen.id) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json())["error"]["code"] == "draining"
    stream.close()


async def test_a_worker_that_has_begun_to_leave_takes_nothing_over_for_whom_it_let_in_before(
    start_worker: StartWorker,
) -> None:
    leaving = await start_worker(engine=PlannedEngine())
    await leaving.worker.drain()
    asked = TurnRequest("s" * 32, "anonymous", None)
    with pytest.raises(Draining):
        async with leaving.worker.turns.take_over(asked, "1"):
            raise AssertionError


async def test_a_turn_that_begins_on_a_worker_that_leaves_is_handed_over_too(
    start_worker: StartWorker,
) -> None:
    """After `POST /drain` it still serves requests."""
    engine = PlannedEngine([*speech("I look. "), asks("look")])
    leaving = await start_worker(engine=engine, toolbox=BOX)
    other = await start_worker(engine=PlannedEngine(speech("I see.")), toolbox=BOX)
    await leave(leaving, "POST /drain")
    sid = await create(leaving)
    async with await open_turn(leaving, sid, **ACCEPTS) as stream:
        path, seen = stream.headers["X-Hermes-Resume"], await all_events(stream)
    assert seen.pop().name == "handover"
    async with resume(other, path, seen[-1].id) as response:
        seen += await all_events(response)
    assert deltas(seen) == seen[-1].data["content"] == "I look. I see."


async def test_a_turn_that_was_taken_over_is_handed_over_as_well(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    first = await start_worker(engine=PausedEngine([*speech("I "), None]), toolbox=BOX)
    engine = PausedEngine([*speech("look. "), None, asks("look")], can_continue=True)
    second = await start_worker(engine=engine, toolbox=BOX)
    third = await start_worker(engine=PlannedEngine(speech("I see.")), toolbox=BOX)
    sid = await create(first)
    stream = await open_turn(first, sid, **ACCEPTS)
    path, seen = stream.headers["X-Hermes-Resume"], [await anext(read_events(stream))]
    await die(first, redis, sid)
    async with resume(second, path, seen[-1].id, **ACCEPTS) as response:
        events = read_events(response)
        seen.append(await anext(events))
        await second.worker.drain()
        engine.gate.set()
        assert [(event.id, event.name) async for event in events] == [("", "handover")]
    async with resume(third, path, seen[-1].id, **ACCEPTS) as response:
        seen += await all_events(response)
    assert deltas(seen) == seen[-1].data["content"] == "I look. I see."
    assert await told(store, sid) == GONE_ON
    stream.close()


async def test_no_other_message_takes_the_place_of_a_turn_that_was_handed_over(
    start_worker: StartWorker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while a balancer looks for a worker; afterwards it may."""
    monkeypatch.setattr(turns, "_HANDED_S", 3600.0)
    first = await start_worker(engine=(engine := first_step()), toolbox=BOX)
    other = await start_worker(engine=PlannedEngine(speech("Hm.")), toolbox=BOX)
    sid = await create(first)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        events = read_events(stream)
        await anext(events)
        await first.worker.drain()
        engine.gate.set()
        assert [event.name async for event in events][-1] == "handover"
    await until(lambda: len(first.worker.turns) == 0)
    refused = await post(other, sid, "and now?")
    assert (refused.status, refused.error) == (409, "turn_in_progress")
    assert 0 < await redis.pttl(session_keys(sid)[1]) <= 3_600_000
    await redis.delete(session_keys(sid)[1])
    assert (await post(other, sid, "and now?")).status == 200


async def test_who_lost_its_turn_to_another_worker_is_sent_there(
    start_worker: StartWorker, redis: Redis
) -> None:
    first = await start_worker(
        engine=(engine := PausedEngine([*speech("one "), None, *speech("x")]))
    )
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        path, events = stream.headers["X-Hermes-Resume"], read_events(stream)
        seen = [await anext(events)]
        await redis.delete(session_keys(sid)[1])
        async with resume(other, path, seen[-1].id) as response:
            seen += await all_events(response)
        engine.gate.set()
        assert [event.name async for event in events] == ["handover"]
    assert deltas(seen) == "one two"


# Within a step.


@pytest.mark.parametrize("how", ["SIGTERM", "POST /drain"])
async def test_a_turn_leaves_amid_a_step_if_its_engine_can_continue(
    start_worker: StartWorker, store: SessionStore, how: str
) -> None:
    """Its gate is never opened: the step would never end."""
    engine = PausedEngine([*speech("one ", "two "), None], can_continue=True)
    first = await start_worker(engine=engine)
    next_engine = PausedEngine(speech("three"), can_continue=True)
    other = await start_worker(engine=next_engine)
    sid = await create(first)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        path = stream.headers["X-Hermes-Resume"]
        await engine.paused.wait()
        await leave(first, how)
        seen = await all_events(stream)
    assert (seen[-1].id, seen.pop().name) == ("", "handover")
    assert deltas(seen) == "one two "
    await first.worker.turns.wait_idle()
    async with resume(other, path, seen[-1].id) as response:
        seen += await all_events(response)
    assert deltas(seen) == seen[-1].data["content"] == "one two three"
    assert next_engine.requests[0].prefix == "one two "
    assert "rewind" not in [event.name for event in seen]
    assert await told(store, sid) == [("user", "go"), ("assistant", "one two three")]


async def test_a_turn_without_a_word_leaves_at_once(start_worker: StartWorker) -> None:
    first = await start_worker(engine=(engine := PausedEngine([None], can_continue=True)))
    other = await start_worker(engine=PlannedEngine(speech("here")))
    sid = await create(first)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        await engine.paused.wait()
        await first.worker.drain()
        assert [event.name for event in await all_events(stream)] == ["handover"]
        async with resume(other, stream.headers["X-Hermes-Resume"]) as response:
            assert deltas(await all_events(response)) == "here"


async def test_what_was_said_and_not_yet_logged_is_handed_over_too(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is in flight, and more words are pending."""
    more = asyncio.Event()
    words = [*speech("one "), more, *speech("two ", "three "), None]
    engine = PausedEngine(words, can_continue=True)
    first = await start_worker(engine=engine)
    other = await start_worker(engine=PausedEngine(speech("four"), can_continue=True))
    sid = await create(first)
    events, is_writing, gate = first.worker.store.events, asyncio.Event(), asyncio.Event()
    append = events.append

    async def slow(lease: Any, said: Any = ()) -> bool:
        is_writing.set()
        await gate.wait()
        return await append(lease, said)

    monkeypatch.setattr(events, "append", slow)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        path = stream.headers["X-Hermes-Resume"]
        await is_writing.wait()
        engine.paused.clear()
        more.set()
        await engine.paused.wait()
        await first.worker.drain()
        gate.set()
        seen = await all_events(stream)
    assert seen.pop().name == "handover"
    assert deltas(seen) == "one two three "
    async with resume(other, path, seen[-1].id) as response:
        seen += await all_events(response)
    assert deltas(seen) == seen[-1].data["content"] == "one two three four"


async def test_a_tool_that_runs_is_not_left_amid_its_work(
    start_worker: StartWorker, store: SessionStore
) -> None:
    runs, is_running, gate = [], asyncio.Event(), asyncio.Event()

    async def work(arguments: Any, context: Any) -> str:
        runs.append(context.idempotency_key)
        is_running.set()
        await gate.wait()
        return "seen"

    box = Toolbox([FunctionTool("look", work)])
    engine = PausedEngine([*speech("I look. "), asks("look")], can_continue=True)
    first = await start_worker(engine=engine, toolbox=box)
    engine = PausedEngine(speech("I see."), can_continue=True)
    other = await start_worker(engine=engine, toolbox=box)
    sid = await create(first)
    async with await open_turn(first, sid, **ACCEPTS) as stream:
        await is_running.wait()
        await first.worker.drain()
        for _ in range(20):
            # Enough time to be cancelled.
            await asyncio.sleep(0)
        gate.set()
        seen = await all_events(stream)
        path = stream.headers["X-Hermes-Resume"]
    assert seen.pop().name == "handover"
    async with resume(other, path, seen[-1].id) as response:
        await all_events(response)
    assert await told(store, sid) == GONE_ON
    assert len(runs) == 1


async def test_a_step_that_outlasts_the_drain_is_rewound_elsewhere(
    http: ClientSession, start_worker: StartWorker, store: SessionStore
) -> None:
    """Its engine cannot continue: it had the whole drain to end by itself."""
    first = await start_worker(engine=(engine := PausedEngine([*speech("one "), None])))
    other = await start_worker(engine=PlannedEngine(speech("uno")))
    client = Client(http, [other.url], await create(first))
    stream = await open_turn(first, client.sid, **ACCEPTS)
    client.path = stream.headers["X-Hermes-Resume"]
    client.events = [await anext(read_events(stream))]
    await engine.paused.wait()
    await first.worker.drain()
    assert len(first.worker.turns) == 1
    await first.worker.turns.cancel_all()  # its time is over
    await client.follow(other.url)
    assert [event.name for event in client.events] == [
        "message.delta", "rewind", "message.delta", "done"
    ]  # fmt: skip
    assert client.check()["content"] == "uno"
    stream.close()
