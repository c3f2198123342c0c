"""A message that arrives while a turn runs is rejected, queued, or interrupts it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.models import ScriptedEngine, TextDelta
from agent_worker.runtime import admission
from agent_worker.sessions import session_keys
from agent_worker.tasks import spawn
from agent_worker.tools import Toolbox
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine
from tests.support.agent.runtime import (
    ANONYMOUS,
    SSE,
    PausedEngine,
    amid_a_turn,
    asks,
    create,
    cut_off,
    die,
    post,
    speech,
    status,
    told,
)
from tests.support.sse import Event, all_events, deltas, event_order, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientWebSocketResponse
    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker


async def test_by_default_a_message_is_refused_while_a_turn_runs(
    start_worker: StartWorker, store: SessionStore
) -> None:
    first = await start_worker(engine=(engine := GatedEngine()))
    other = await start_worker(engine=PlannedEngine())
    sid, running = await amid_a_turn(first, engine.started)
    for worker in (first, other):
        for policy in ("", "reject"):
            reply = await post(worker, sid, "too early", policy)
            assert (reply.status, reply.error) == (409, "turn_in_progress")
            assert 1 <= int(reply.headers["Retry-After"]) <= 5
    engine.gate.set()
    assert (await running).body["content"] == "one two"
    assert await told(store, sid) == [("user", "first"), ("assistant", "one two")]


async def test_an_unknown_policy_is_a_bad_request(worker: RunningWorker) -> None:
    sid = await create(worker)
    reply = await post(worker, sid, "hello", "perhaps")
    assert (reply.status, reply.error) == (400, "bad_request")


# Enqueue.


async def test_without_a_turn_that_runs_nothing_is_queued(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("hi")))
    sid = await create(worker)
    reply = await post(worker, sid, "hello", "enqueue")
    assert (reply.status, reply.body["content"]) == (200, "hi")


async def test_queued_messages_open_the_next_turn_together_and_in_order(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    worker = await start_worker(engine=engine)
    sid, running = await amid_a_turn(worker, engine.paused)
    for n, content in enumerate(["second", "third"], 1):
        reply = await post(worker, sid, content, "enqueue")
        assert reply.status == 202
        assert reply.body == {"session_id": sid, "status": "queued", "waiting": n}
        assert reply.headers["Location"].endswith(f"/{sid}/events")
    assert (await store.read(sid, ANONYMOUS)).waiting == 2
    assert await told(store, sid) == [("user", "first")]
    engine.gate.set()
    assert (await running).body["content"] == "one"
    await until(lambda: len(engine.requests) == 2)
    await worker.worker.turns.wait_idle()
    assert await told(store, sid) == [
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
        ("user", "third"),
        ("assistant", "two"),
    ]
    assert await status(store, sid) == "idle"


async def test_what_waits_is_begun_by_the_worker_whose_turn_has_ended(
    start_worker: StartWorker, store: SessionStore
) -> None:
    """The worker that has queued the message is dead by then."""
    engine = PausedEngine([*speech("one"), None], speech("two"))
    first = await start_worker(engine=engine)
    other = await start_worker(engine=PlannedEngine())
    sid, running = await amid_a_turn(first, engine.paused)
    assert (await post(other, sid, "second", "enqueue")).status == 202
    cut_off(other)
    engine.gate.set()
    assert (await running).status == 200
    await until(lambda: len(engine.requests) == 2)
    await first.worker.turns.wait_idle()
    assert await told(store, sid) == [
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
        ("assistant", "two"),
    ]


async def test_what_waits_is_begun_by_the_worker_that_took_it_when_the_other_died(
    start_worker: StartWorker, store: SessionStore, redis: Redis, quick_looks: None
) -> None:
    first = await start_worker(engine=(engine := GatedEngine()))
    other = await start_worker(engine=PlannedEngine(speech("two")))
    sid, running = await amid_a_turn(first, engine.started)
    assert (await post(other, sid, "second", "enqueue")).status == 202
    await die(first, redis, sid)
    await until(lambda: not len(other.worker.turns) and other.worker.engine.requests)
    # The first message has no answer: it was not sent again.
    expected = [("user", "first"), ("user", "second"), ("assistant", "two")]

    async def is_kept() -> bool:
        return await told(store, sid) == expected

    await until(is_kept)
    assert not running.done()


async def test_what_waits_is_begun_once_though_two_workers_look_after_it(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    first, other = await start_worker(engine=engine), await start_worker(engine=engine)
    sid, running = await amid_a_turn(first, engine.paused)
    assert (await post(other, sid, "second", "enqueue")).status == 202
    engine.gate.set()
    await running
    await until(lambda: len(engine.requests) == 2)
    await until(lambda: not first.worker.turns._inboxes)
    await until(lambda: not other.worker.turns._inboxes)
    assert [content for _, content in await told(store, sid)] == ["first", "one", "second", "two"]


async def test_a_drain_waits_for_what_waited(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    worker = await start_worker(engine=engine)
    sid, running = await amid_a_turn(worker, engine.paused)
    await post(worker, sid, "second", "enqueue")
    await worker.worker.drain()
    engine.gate.set()
    await worker.worker.turns.wait_idle()
    assert (await running).status == 200
    assert [content for _, content in await told(store, sid)] == ["first", "one", "second", "two"]


async def test_a_queued_message_is_known_by_its_key_until_its_answer_can_be_had(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    worker = await start_worker(engine=engine)
    sid, running = await amid_a_turn(worker, engine.paused)
    for _ in range(2):
        reply = await post(worker, sid, "second", "enqueue", Idempotency_Key="k")
        assert (reply.status, reply.body["waiting"]) == (202, 1)
    reply = await post(worker, sid, "another", "enqueue", Idempotency_Key="k")
    assert (reply.status, reply.error) == (409, "idempotency_mismatch")
    engine.gate.set()
    await running
    await until(lambda: len(engine.requests) == 2)
    await worker.worker.turns.wait_idle()
    reply = await post(worker, sid, "second", "enqueue", Idempotency_Key="k")
    assert (reply.status, reply.body["content"]) == (200, "two")
    assert reply.headers["Idempotency-Replayed"] == "true"
    assert len(await told(store, sid)) == 4


async def test_a_turn_that_failed_leaves_what_waits_to_the_next(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([None, RuntimeError("boom")], speech("two"))
    worker = await start_worker(engine=engine)
    sid, running = await amid_a_turn(worker, engine.paused)
    assert (await post(worker, sid, "second", "enqueue")).status == 202
    engine.gate.set()
    assert (await running).error == "engine_failed"
    await until(lambda: len(engine.requests) == 2)
    await worker.worker.turns.wait_idle()
    assert [content for _, content in await told(store, sid)] == ["first", "second", "two"]


async def test_what_waits_of_a_deleted_session_is_forgotten(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid, running = await amid_a_turn(worker, engine.started)
    assert (await post(worker, sid, "second", "enqueue")).status == 202
    async with worker.delete(sid) as response:
        assert response.status == 204
    engine.gate.set()
    assert (await running).status == 404
    await worker.worker.turns.wait_idle()
    await until(lambda: not worker.worker.turns._inboxes)
    assert engine.steps == 1
    assert await redis.exists(*session_keys(sid)[1:]) == 0


# Interrupt.


async def test_without_a_turn_that_runs_nothing_is_interrupted(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=PlannedEngine(speech("hi")))
    sid = await create(worker)
    reply = await post(worker, sid, "hello", "interrupt")
    assert (reply.status, reply.body["content"]) == (200, "hi")


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_interrupted_turn_keeps_its_finished_steps_and_the_new_one_runs(
    start_worker: StartWorker, store: SessionStore, workers: int
) -> None:
    async def look(arguments: Any, context: Any) -> str:
        return "seen"

    box = Toolbox([FunctionTool("look", look)])
    steps = [[*speech("I look. "), asks("look")], [*speech("I see"), None], speech("yes")]
    engine = PausedEngine(*steps)
    first = await start_worker(engine=engine, toolbox=box)
    other = await start_worker(engine=engine, toolbox=box) if workers == 2 else first
    sid = await create(first)
    async with first.post(sid, "messages", json={"content": "look"}, headers=SSE) as response:
        await engine.paused.wait()
        reply = await post(other, sid, "stop", "interrupt")
        assert (reply.status, reply.body["content"], reply.body["step"]) == (200, "yes", 2)
        events = await all_events(response)
    assert deltas(events) == "I look. I see"
    assert (events[-1].name, events[-1].data["code"]) == ("error", "turn_interrupted")
    assert events[-1].id
    assert await told(store, sid) == [
        ("user", "look"),
        ("assistant", "I look. "),
        ("tool", "seen"),
        ("user", "stop"),
        ("assistant", "yes"),
    ]


async def test_the_client_of_an_interrupted_turn_gets_409(start_worker: StartWorker) -> None:
    worker = await start_worker(engine=(engine := PausedEngine([None], speech("yes"))))
    sid, running = await amid_a_turn(worker, engine.paused)
    assert (await post(worker, sid, "stop", "interrupt")).status == 200
    reply = await running
    assert (reply.status, reply.error) == (409, "turn_interrupted")


async def deaf_worker(start_worker: StartWorker, **options: Any) -> RunningWorker:
    """A worker that gets no notification of interruptions, as if pub/sub had lost them."""
    worker = await start_worker(**options)
    notifier = worker.worker.notifier
    await until(lambda: notifier._callbacks)
    notifier._callbacks.clear()
    return worker


async def test_an_interruption_that_was_not_heard_is_seen_with_the_renewal(
    start_worker: StartWorker, store: SessionStore
) -> None:
    first = await deaf_worker(start_worker, engine=(engine := GatedEngine()), lease_s=1.5)
    other = await start_worker(engine=PlannedEngine(speech("yes")))
    sid, running = await amid_a_turn(first, engine.started)
    assert (await post(other, sid, "stop", "interrupt")).body["content"] == "yes"
    assert (await running).error == "turn_interrupted"
    assert engine.closed.is_set()
    assert [content for _, content in await told(store, sid)] == ["first", "stop", "yes"]


async def test_an_interruption_that_was_not_heard_is_seen_with_the_next_event(
    start_worker: StartWorker, redis: Redis
) -> None:
    engine = PausedEngine([TextDelta("one"), None, TextDelta("two"), asyncio.Event()])
    first = await deaf_worker(start_worker, engine=engine)
    other = await start_worker(engine=PlannedEngine(speech("yes")))
    sid, running = await amid_a_turn(first, engine.paused)
    stopping = spawn(post(other, sid, "stop", "interrupt"), name="interrupt")

    async def is_asked() -> bool:
        return await redis.hexists(session_keys(sid)[0], "stop")

    await until(is_asked)
    engine.gate.set()
    assert (await stopping).body["content"] == "yes"
    assert (await running).error == "turn_interrupted"


async def test_an_interruption_outwaits_the_lease_of_a_worker_that_died(
    start_worker: StartWorker, store: SessionStore, quick_looks: None
) -> None:
    first = await deaf_worker(start_worker, engine=(engine := GatedEngine()), lease_s=0.6)
    other = await start_worker(engine=PlannedEngine(speech("yes")), lease_s=0.6)
    sid, running = await amid_a_turn(first, engine.started)
    cut_off(first)
    assert (await post(other, sid, "stop", "interrupt")).body["content"] == "yes"
    assert (await running).status == 503
    assert [content for _, content in await told(store, sid)] == ["first", "stop", "yes"]


async def test_an_interruption_that_nobody_heeds_is_refused_in_the_end(
    start_worker: StartWorker, store: SessionStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_GRACE_S", 0.1)
    first = await deaf_worker(start_worker, engine=(engine := GatedEngine()))
    other = await start_worker(engine=PlannedEngine(), lease_s=0.3)
    sid, running = await amid_a_turn(first, engine.started)
    reply = await post(other, sid, "stop", "interrupt")
    assert (reply.status, reply.error) == (409, "turn_in_progress")
    # It runs, and has been asked to stop: it stops at its next write.
    assert await redis.hexists(session_keys(sid)[0], "stop")
    engine.gate.set()
    await running
    assert ("user", "stop") not in await told(store, sid)


async def test_what_waits_comes_before_the_message_that_interrupts(
    start_worker: StartWorker, store: SessionStore
) -> None:
    first = await start_worker(engine=(engine := GatedEngine()))
    other = await start_worker(engine=ScriptedEngine())
    sid, running = await amid_a_turn(first, engine.started)
    assert (await post(first, sid, "second", "enqueue")).status == 202
    assert (await post(other, sid, "third", "interrupt")).status == 200
    assert (await running).error == "turn_interrupted"
    users = [content for role, content in await told(store, sid) if role == "user"]
    assert users == ["first", "second", "third"]


async def test_a_foreign_session_is_neither_queued_for_nor_interrupted(
    start_worker: StartWorker, redis: Redis
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid, running = await amid_a_turn(worker, engine.started)
    for policy in ("reject", "enqueue", "interrupt"):
        reply = await post(worker, sid, "mine", policy, Authorization="Bearer else")
        assert (reply.status, reply.error) == (404, "session_not_found")
    assert not await redis.hexists(session_keys(sid)[0], "stop")
    engine.gate.set()
    assert (await running).body["content"] == "one two"


# The same over WebSocket.


async def receive(socket: ClientWebSocketResponse) -> Event:
    frame = json.loads(await socket.receive_str())
    return Event(frame["id"], frame["event"], frame["data"])


async def to_the_end(socket: ClientWebSocketResponse) -> list[Event]:
    events = [await receive(socket)]
    while events[-1].name not in {"done", "error"}:
        events.append(await receive(socket))
    return events


@asynccontextmanager
async def socket_to(worker: RunningWorker, sid: str) -> AsyncIterator[ClientWebSocketResponse]:
    async with worker.ws_connect(sid, "ws") as socket:
        yield socket


async def test_over_websocket_a_second_message_is_refused_without_an_id(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(engine=(engine := GatedEngine()))
    sid = await create(worker)
    async with socket_to(worker, sid) as one, socket_to(worker, sid) as other:
        await one.send_json({"content": "first"})
        assert (await receive(one)).data == {"content": "one "}
        for socket in (one, other):
            await socket.send_json({"content": "too early"})
            event = await receive(socket)
            assert (event.id, event.name) == (None, "error")
            assert event.data["code"] == "turn_in_progress"
        engine.gate.set()
        events = await to_the_end(one)
    assert events[-1].data["content"] == "one two"


async def test_over_websocket_a_queued_message_is_confirmed_and_runs_afterwards(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    worker = await start_worker(engine=engine)
    sid = await create(worker)
    async with socket_to(worker, sid) as one, socket_to(worker, sid) as other:
        await one.send_json({"content": "first"})
        await receive(one)
        for n, socket in enumerate((one, other), 1):
            await socket.send_json({"content": f"queued {n}", "policy": "enqueue"})
            event = await receive(socket)
            assert (event.id, event.name, event.data) == (None, "queued", {"waiting": n})
        engine.gate.set()
        assert (await to_the_end(one))[-1].data["content"] == "one"
        await until(lambda: len(engine.requests) == 2)
        await worker.worker.turns.wait_idle()
    contents = [content for _, content in await told(store, sid)]
    assert contents == ["first", "one", "queued 1", "queued 2", "two"]


async def test_over_websocket_another_socket_interrupts_a_turn(
    start_worker: StartWorker, store: SessionStore
) -> None:
    first = await start_worker(engine=(engine := GatedEngine()))
    second = await start_worker(engine=PlannedEngine(speech("yes")))
    sid = await create(first)
    async with socket_to(first, sid) as one, socket_to(second, sid) as other:
        await one.send_json({"content": "first"})
        await engine.started.wait()
        await other.send_json({"content": "stop", "policy": "interrupt"})
        assert (await to_the_end(other))[-1].data["content"] == "yes"
        ended = (await to_the_end(one))[-1]
    assert (ended.name, ended.data["code"]) == ("error", "turn_interrupted")
    assert [content for _, content in await told(store, sid)] == ["first", "stop", "yes"]


async def test_over_websocket_a_socket_interrupts_its_own_turn(
    start_worker: StartWorker, store: SessionStore
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("yes"))
    worker = await start_worker(engine=engine)
    sid = await create(worker)
    async with socket_to(worker, sid) as socket:
        await socket.send_json({"content": "first"})
        first = await receive(socket)
        await engine.paused.wait()
        await socket.send_json({"content": "stop", "policy": "interrupt"})
        # The boundary between the two turns.
        assert (await to_the_end(socket))[-1].data["code"] == "turn_interrupted"
        events = await to_the_end(socket)
    assert deltas(events) == events[-1].data["content"] == "yes"
    assert event_order(events[0].id) > event_order(first.id)
    assert [content for _, content in await told(store, sid)] == ["first", "stop", "yes"]


async def test_a_socket_whose_turn_is_interrupted_over_http_goes_on(
    start_worker: StartWorker,
) -> None:
    engine = PausedEngine([*speech("one"), None], speech("yes"), speech("again"))
    worker = await start_worker(engine=engine)
    sid = await create(worker)
    async with socket_to(worker, sid) as socket:
        await socket.send_json({"content": "first"})
        await engine.paused.wait()
        assert (await post(worker, sid, "stop", "interrupt")).status == 200
        assert (await to_the_end(socket))[-1].data["code"] == "turn_interrupted"
        await socket.send_json({"content": "third"})
        assert (await to_the_end(socket))[-1].data["content"] == "again"


# A follower of the session sees everything.


async def test_a_follower_sees_the_turn_that_was_queued(start_worker: StartWorker) -> None:
    engine = PausedEngine([*speech("one"), None], speech("two"))
    worker, other = await start_worker(engine=engine), await start_worker()
    sid, running = await amid_a_turn(worker, engine.paused)
    async with other.get(sid, "events") as response:
        events = read_events(response)
        assert (await anext(events)).data == {"content": "one"}
        await post(worker, sid, "second", "enqueue")
        engine.gate.set()
        names = [(await anext(events)).name for _ in range(3)]
    assert names == ["done", "message.delta", "done"]
    assert (await running).status == 200
