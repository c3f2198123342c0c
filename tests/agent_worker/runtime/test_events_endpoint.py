"""`GET .../events`: the events after an id, then live ones, on any worker."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.api import events as endpoint
from agent_worker.runtime import orphans
from agent_worker.sessions import session_keys
from agent_worker.tasks import spawn
from agent_worker.tools import Toolbox
from tests.support.agent.engines import FunctionTool, PlannedEngine
from tests.support.agent.runtime import (
    PausedEngine,
    amid_a_turn,
    asks,
    create,
    cut_off,
    die,
    post,
    speech,
)
from tests.support.sse import Event, all_events, deltas, event_order, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


async def log_of(redis: Redis, sid: str) -> list[Event]:
    """The whole log, as stored in Redis."""
    entries = await redis.xrange(session_keys(sid)[4])
    return [Event(event_id, fields["e"], json.loads(fields["d"])) for event_id, fields in entries]


def follow(worker: RunningWorker, sid: str, after: str = "", **params: str) -> Any:
    headers = {"Last-Event-ID": after} if after else {}
    return worker.get(sid, "events", headers=headers, params=params)


async def error_of(response: Any) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


def active(worker: RunningWorker) -> float | None:
    return worker.worker.metrics.registry.get_sample_value("hermes_active_sessions")


async def finished_session(worker: RunningWorker) -> str:
    """A session with a finished turn, and so with a last event."""
    sid = await create(worker)
    assert (await post(worker, sid, "before")).status == 200
    return sid


# After an id.


@pytest.mark.parametrize("stride", [1, 3, 7])
async def test_a_client_that_hops_between_workers_loses_and_repeats_nothing(
    start_worker: StartWorker, redis: Redis, stride: int
) -> None:
    """Each connection is closed after a few events, while the turn is running."""

    async def look(arguments: Any, context: Any) -> str:
        return "seen"

    gates = [asyncio.Event() for _ in range(5)]
    step = [item for gate in gates for item in (*speech(*(f"{n} " for n in range(4))), gate)]
    engine = PausedEngine([*step[:10], asks("look")], [*step[10:], *speech("end")])
    toolbox = Toolbox([FunctionTool("look", look)])
    workers = [await start_worker(engine=engine, toolbox=toolbox) for _ in range(3)]
    sid, running = await amid_a_turn(workers[0], engine.paused)

    async def next_event(stream: AsyncIterator[Event], before: list[Event]) -> Event:
        """The turn continues whenever all of its events have been read."""
        reading = spawn(anext(stream), name="read")  # type: ignore[arg-type]
        await until(lambda: reading.done() or engine.paused.is_set())
        if not reading.done() and await is_read(before):
            engine.paused.clear()
            next(gate for gate in gates if not gate.is_set()).set()
        return await reading

    async def read_some(worker: RunningWorker, after: str) -> list[Event]:
        events: list[Event] = []
        async with follow(worker, sid, after, until="done") as response:
            stream = read_events(response)
            while len(events) < stride and not (events and events[-1].name == "done"):
                events.append(await next_event(stream, [*seen, *events]))
        return events

    async def is_read(events: list[Event]) -> bool:
        return [event.id for event in events] == [event.id for event in await log_of(redis, sid)]

    seen: list[Event] = []
    hops = 0
    while not seen or seen[-1].name != "done":
        worker = workers[hops % 3]
        seen += await read_some(worker, seen[-1].id if seen else "")
        hops += 1
    assert seen == await log_of(redis, sid)
    reply = await running
    assert deltas(seen) == reply.body["content"] == seen[-1].data["content"]
    assert hops >= len(seen) // stride
    assert {"tool.started", "tool.completed"} < {event.name for event in seen}


async def test_each_id_of_a_finished_turn_gives_what_is_behind_it(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a", "b", "c")))
    sid = await finished_session(worker)
    log = await log_of(redis, sid)
    assert log[-1].name == "done"
    for at in range(len(log) - 1):
        async with follow(worker, sid, log[at].id, until="done") as response:
            assert await all_events(response) == log[at + 1 :]


async def test_the_id_may_come_in_the_query_for_clients_without_headers(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("a", "b")))
    sid = await finished_session(worker)
    first, *rest = await log_of(redis, sid)
    async with follow(worker, sid, until="done", last_event_id=first.id) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Hermes-Session-Id"] == sid
        assert await all_events(response) == rest


async def test_more_events_than_a_page_holds_come_in_order(
    start_worker: StartWorker, redis: Redis
) -> None:
    words = [f"{n} " for n in range(1203)]
    engine = PlannedEngine(speech("hi"), speech(*words))
    worker = await start_worker(engine=engine)
    sid = await finished_session(worker)
    last = (await log_of(redis, sid))[-1].id
    await post(worker, sid, "go")
    async with follow(worker, sid, last, until="done") as response:
        events = await all_events(response)
    assert deltas(events) == "".join(words)
    order = [event_order(event.id) for event in events]
    assert order == sorted(set(order))


async def test_an_id_of_the_turn_before_gives_both_turns(
    start_worker: StartWorker, redis: Redis
) -> None:
    engine = PausedEngine(speech("one"), [*speech("two"), None])
    worker = await start_worker(engine=engine)
    sid = await finished_session(worker)
    first = (await log_of(redis, sid))[0]
    running = spawn(post(worker, sid, "go"), name="turn")
    await engine.paused.wait()
    async with follow(worker, sid, first.id) as response:
        stream = read_events(response)
        assert [(await anext(stream)).name for _ in range(2)] == ["done", "message.delta"]
        engine.gate.set()
        assert (await anext(stream)).data["content"] == "two"
    await running


# Live.


async def test_events_come_while_the_turn_runs(start_worker: StartWorker) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    words = speech("one ", "two ", "three")
    engine = PausedEngine(
        speech("hi"), [item for pair in zip(gates, words, strict=True) for item in pair]
    )
    first, other = await start_worker(engine=engine), await start_worker()
    sid = await finished_session(first)
    async with follow(other, sid) as response:
        stream = read_events(response)
        running = spawn(post(first, sid, "go"), name="turn")
        for gate, word in zip(gates, words, strict=True):
            gate.set()
            assert (await anext(stream)).data == {"content": word.text}
        assert (await anext(stream)).name == "done"
        assert active(other) == 1
    await running
    await until(lambda: active(other) == 0)


async def test_without_an_id_the_events_of_the_turn_that_runs_come_and_no_older_ones(
    start_worker: StartWorker,
) -> None:
    engine = PausedEngine(speech("before"), [*speech("one ", "two "), None, *speech("three")])
    first, other = await start_worker(engine=engine), await start_worker()
    sid = await finished_session(first)
    running = spawn(post(first, sid, "go"), name="turn")
    await engine.paused.wait()
    async with follow(other, sid, until="done") as response:
        stream = read_events(response)
        seen = [await anext(stream), await anext(stream)]
        engine.gate.set()
        seen += [event async for event in stream]
    assert deltas(seen) == (await running).body["content"] == "one two three"


async def test_without_an_id_an_idle_session_gives_the_next_turn(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("before"), speech("after")))
    sid = await finished_session(worker)
    asked = asks_of_the_log(worker)
    async with follow(worker, sid, until="done") as response:
        await asked.wait()
        await post(worker, sid, "go")
        events = await all_events(response)
    assert deltas(events) == events[-1].data["content"] == "after"


async def test_who_follows_a_new_session_gets_the_first_turn(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("one")))
    sid = await create(worker)
    asked = asks_of_the_log(worker)
    async with follow(worker, sid) as response:
        await asked.wait()
        await post(worker, sid, "go")
        stream = read_events(response)
        assert (await anext(stream)).name == "message.delta"
        assert (await anext(stream)).name == "done"


async def test_who_has_seen_all_of_a_log_that_expired_gets_the_next_turn(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("before"), speech("one")))
    sid = await finished_session(worker)
    await redis.delete(session_keys(sid)[4])
    asked = asks_of_the_log(worker)
    async with follow(worker, sid) as response:
        await asked.wait()
        await post(worker, sid, "go")
        stream = read_events(response)
        assert (await anext(stream)).name == "message.delta"
        assert (await anext(stream)).name == "done"


def asks_of_the_log(worker: RunningWorker) -> asyncio.Event:
    """Set once a follower on this worker has read the log."""
    asked = asyncio.Event()
    page = worker.worker.store.events.page

    async def seen(*args: Any) -> Any:
        found = await page(*args)
        asked.set()
        return found

    worker.worker.store.events.page = seen  # type: ignore[method-assign]
    return asked


async def test_until_done_ends_with_an_error_too(start_worker: StartWorker) -> None:
    engine = PausedEngine([*speech("one"), None, RuntimeError("boom")])
    worker = await start_worker(engine=engine)
    sid, running = await amid_a_turn(worker, engine.paused)
    async with follow(worker, sid, until="done") as response:
        stream = read_events(response)
        assert (await anext(stream)).data == {"content": "one"}
        engine.gate.set()
        (error,) = [event async for event in stream]
    assert (error.name, error.data["code"]) == ("error", "engine_failed")
    assert error.id
    assert (await running).status == 502


async def test_a_follower_without_until_stays_for_the_next_turn(
    start_worker: StartWorker, redis: Redis
) -> None:
    engine = PlannedEngine(speech("zero"), speech("one"), speech("two"))
    worker = await start_worker(engine=engine)
    sid = await finished_session(worker)
    last = (await log_of(redis, sid))[-1].id
    async with follow(worker, sid, last) as response:
        stream = read_events(response)
        for word in ("one", "two"):
            await post(worker, sid, "go")
            assert (await anext(stream)).data == {"content": word}
            assert (await anext(stream)).data["content"] == word


async def test_who_follows_is_notified_once_that_a_turn_was_given_back(
    start_worker: StartWorker, quick_looks: None
) -> None:
    """By a worker whose client left: the turn is not an orphan, and is not continued."""
    first = await start_worker(engine=(engine := PausedEngine([*speech("one"), None])))
    other = await start_worker(engine=PlannedEngine(speech("two")))
    sid, running = await amid_a_turn(first, engine.paused)
    async with follow(other, sid) as response:
        stream = read_events(response)
        assert (await anext(stream)).data == {"content": "one"}
        running.cancel()
        lost = await anext(stream)
        assert (lost.id, lost.name, lost.data["code"]) == ("", "error", "turn_interrupted")
        for _ in range(3):
            await asks_of_the_log(other).wait()
        await post(other, sid, "again")
        assert (await anext(stream)).data == {"content": "two"}


async def test_a_turn_whose_worker_died_goes_on_for_who_follows_the_session(
    start_worker: StartWorker, redis: Redis, quick_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any worker has found it in the index."""
    monkeypatch.setattr(orphans, "_STALE_S", 3600.0)
    first = await start_worker(engine=(engine := PausedEngine([*speech("one "), None])))
    other = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid, running = await amid_a_turn(first, engine.paused)
    async with follow(other, sid) as response:
        stream = read_events(response)
        seen = await anext(stream)
        await die(first, redis, sid)
    async with other.get(sid, "events?until=done", headers={"Last-Event-ID": seen.id}) as response:
        seen_after = await all_events(response)
    assert deltas([seen, *seen_after]) == seen_after[-1].data["content"] == "one two"
    running.cancel()


# Expired events.


async def test_behind_a_trimmed_event_comes_a_reset_with_the_session_and_then_live(
    start_worker: StartWorker, redis: Redis
) -> None:
    engine = PausedEngine(speech("before"), [*speech("one ", "two "), None, *speech("three")])
    first, other = await start_worker(engine=engine), await start_worker()
    sid = await finished_session(first)
    seen = (await log_of(redis, sid))[0].id
    running = spawn(post(first, sid, "go"), name="turn")
    await engine.paused.wait()

    async def is_logged() -> bool:
        return len(await log_of(redis, sid)) == 4

    await until(is_logged)
    last = (await log_of(redis, sid))[-1].id
    await redis.xtrim(session_keys(sid)[4], maxlen=1, approximate=False)
    async with follow(other, sid, seen, until="done") as response:
        stream = read_events(response)
        reset = await anext(stream)
        assert (reset.id, reset.name) == (last, "reset")
        async with other.get(sid) as session:
            assert reset.data == await session.json()
        assert reset.data["status"] == "running"
        assert [m["content"] for m in reset.data["messages"]] == ["before", "before", "go"]
        engine.gate.set()
        rest = [event async for event in stream]
    assert [event.name for event in rest] == ["message.delta", "done"]
    assert rest[-1].data == (await running).body


async def test_an_id_of_a_log_that_expired_gives_a_reset(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("one")))
    sid = await finished_session(worker)
    first, last = await log_of(redis, sid)
    await redis.delete(session_keys(sid)[4])
    async with follow(worker, sid, first.id) as response:
        reset = await anext(read_events(response))
    assert (reset.id, reset.name) == (last.id, "reset")
    assert [m["content"] for m in reset.data["messages"]] == ["before", "one"]


async def test_an_id_that_never_was_gives_a_reset(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("one")))
    sid = await finished_session(worker)
    async with follow(worker, sid, "1-1") as response:
        assert (await anext(read_events(response))).name == "reset"


# Refusals.


async def test_a_foreign_or_unknown_session_is_not_found(worker: RunningWorker) -> None:
    sid = await create(worker)
    headers = {"Authorization": "Bearer somebody-else"}
    async with worker.get(sid, "events", headers=headers) as response:
        assert await error_of(response) == (404, "session_not_found")
    for unknown in ("no-such-session-at-all", "x"):
        async with follow(worker, unknown) as response:
            assert await error_of(response) == (404, "session_not_found")


@pytest.mark.parametrize("bad", ["x", "1", "1-", "-1", "1-2-3", "1-2x", "9" * 16 + "-1", "*"])
async def test_a_bad_id_is_a_bad_request(worker: RunningWorker, bad: str) -> None:
    sid = await create(worker)
    async with follow(worker, sid, bad) as response:
        assert await error_of(response) == (400, "bad_request")
    async with follow(worker, sid, last_event_id=bad) as response:
        assert await error_of(response) == (400, "bad_request")


# The end of a stream.


async def test_a_drain_ends_the_stream_and_another_worker_goes_on(
    start_worker: StartWorker, quick_looks: None
) -> None:
    engine = PausedEngine([*speech("one "), None, *speech("two")])
    first, leaving = await start_worker(engine=engine), await start_worker()
    sid, running = await amid_a_turn(first, engine.paused)
    async with follow(leaving, sid) as response:
        stream = read_events(response)
        seen = [await anext(stream)]
        await leaving.worker.drain()
        assert [event async for event in stream] == []
    async with follow(leaving, sid) as response:
        assert await error_of(response) == (503, "draining")
        assert "Retry-After" in response.headers
    async with follow(first, sid, seen[-1].id, until="done") as response:
        engine.gate.set()
        seen += await all_events(response)
    assert deltas(seen) == (await running).body["content"] == "one two"


async def test_a_session_that_is_deleted_ends_the_stream_with_an_error(
    start_worker: StartWorker, quick_looks: None
) -> None:
    engine = PausedEngine([*speech("one"), None])
    worker = await start_worker(engine=engine)
    sid, running = await amid_a_turn(worker, engine.paused)
    async with follow(worker, sid) as response:
        stream = read_events(response)
        await anext(stream)
        async with worker.delete(sid) as deleted:
            assert deleted.status == 204
        (error,) = [event async for event in stream]
    assert (error.id, error.name, error.data["code"]) == ("", "error", "session_not_found")
    engine.gate.set()
    assert (await running).status == 404


async def test_a_store_that_is_lost_ends_the_stream_with_an_error(
    start_worker: StartWorker, redis: Redis, quick_looks: None
) -> None:
    """After an outage that is longer than a lease."""
    worker = await start_worker(engine=PlannedEngine(speech("one")), lease_s=0.5)
    sid = await finished_session(worker)
    first = (await log_of(redis, sid))[0].id
    async with follow(worker, sid, first) as response:
        stream = read_events(response)
        assert (await anext(stream)).name == "done"
        cut_off(worker)
        (error,) = [event async for event in stream]
    assert (error.id, error.data["code"]) == ("", "store_unavailable")


async def test_a_follower_that_leaves_is_forgotten(start_worker: StartWorker, redis: Redis) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("one")))
    sid = await finished_session(worker)
    first = (await log_of(redis, sid))[0].id
    async with follow(worker, sid, first) as response:
        await anext(read_events(response))
        assert active(worker) == 1
        assert len(worker.worker.notifier._wakeups) == 1
        response.close()
    await until(lambda: active(worker) == 0)
    await until(lambda: not worker.worker.notifier._wakeups)


async def test_a_silent_stream_is_kept_alive_with_comments(
    start_worker: StartWorker, quick_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_SILENCES", 2)
    worker = await start_worker(engine=PlannedEngine(speech("one")))
    sid = await finished_session(worker)
    async with follow(worker, sid) as response:
        for _ in range(3):
            assert await response.content.readline() == b": keep-alive\n"
            assert await response.content.readline() == b"\n"
