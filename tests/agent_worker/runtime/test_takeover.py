"""A worker dies during a turn; the same Idempotency-Key continues on another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.tasks import spawn
from agent_worker.tools import Effect, Toolbox
from tests.support.agent.engines import FunctionTool, PlannedEngine
from tests.support.agent.runtime import (
    SSE,
    PausedEngine,
    asks,
    create,
    die,
    post,
    speech,
    status,
    told,
)
from tests.support.sse import Event, all_events, deltas, event_order, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from agent_worker.sessions import SessionStore
    from tests.agent_worker.conftest import StartWorker
    from tests.support.agent.running_worker import RunningWorker

KEY = {"Idempotency-Key": "k"}
MAYBE = "it may have been done, and is not repeated"


class Notebook:
    """A tool that records its runs, and waits until `gate` is set."""

    def __init__(self, name: str, effect: Effect = Effect.READ) -> None:
        self.name = name
        self.runs: list[str] = []
        self.tool = FunctionTool(name, self._run, effect)
        self.keys: list[str] = []
        self.gate: asyncio.Event | None = None

    async def _run(self, arguments: dict[str, Any], context: Any) -> str:
        self.runs.append(arguments.get("n", ""))
        self.keys.append(context.idempotency_key)
        if self.gate is not None:
            await self.gate.wait()
        return f"{self.name} {len(self.runs)}"


async def resume(worker: RunningWorker, sid: str) -> list[Event]:
    """The stream of a client that sends its message again."""
    async with worker.post(
        sid, "messages", json={"content": "go"}, headers={**SSE, **KEY}
    ) as response:
        assert response.status == 200
        return await all_events(response)


async def begin(worker: RunningWorker, sid: str, moment: Any) -> None:
    """A turn that runs until `moment` is true, and whose events are in the log."""
    turn = spawn(post(worker, sid, "go", Idempotency_Key="k"), name="turn")
    # Its client may lose the connection at the end of the test.
    turn.add_done_callback(lambda task: task.cancelled() or task.exception())
    await until(moment)

    def is_logged() -> bool:
        (running,) = worker.worker.turns._running.values()
        return not running._writer._pending and not running._writer._write_lock.locked()

    await until(is_logged)


async def begin_and_die(
    worker: RunningWorker, redis: Redis, sid: str, moment: Any
) -> Callable[[], None]:
    """The same; then its worker dies. Returns a function that restores its Redis, too late."""
    await begin(worker, sid, moment)
    return await die(worker, redis, sid)


@pytest.mark.parametrize("can_continue", [True, False])
async def test_the_text_of_a_turn_that_was_taken_over_is_whole(
    start_worker: StartWorker, redis: Redis, store: SessionStore, can_continue: bool
) -> None:
    dying = PausedEngine([*speech("one ", "two "), None, *speech("three")])
    first = await start_worker(engine=dying)
    rest = speech("three") if can_continue else speech("uno ", "dos ", "tres")
    engine = PausedEngine(rest, can_continue=can_continue)
    second = await start_worker(engine=engine)
    sid = await create(first)
    await begin_and_die(first, redis, sid, dying.paused.is_set)
    events = await resume(second, sid)
    content = "one two three" if can_continue else "uno dos tres"
    assert deltas(events) == events[-1].data["content"] == content
    assert engine.requests[0].prefix == ("one two " if can_continue else "")
    assert [m["content"] for m in engine.histories[0]] == ["go"]
    assert await told(store, sid) == [("user", "go"), ("assistant", content)]
    assert events[-1].name == "done"
    assert ("rewind" in [event.name for event in events]) is not can_continue


async def test_who_follows_the_log_sees_each_word_once_when_the_engine_continues(
    start_worker: StartWorker, redis: Redis, quick_looks: None
) -> None:
    dying = PausedEngine([*speech("one ", "two "), None])
    first = await start_worker(engine=dying)
    second = await start_worker(engine=PausedEngine(speech("three"), can_continue=True))
    sid = await create(first)
    await begin(first, sid, dying.paused.is_set)
    async with second.get(sid, "events") as response:
        log = read_events(response)
        seen = [await anext(log), await anext(log)]
        await die(first, redis, sid)
        seen += [await anext(log), await anext(log)]
    assert deltas(seen) == "one two three"
    assert [event.name for event in seen] == [*["message.delta"] * 3, "done"]
    order = [event_order(event.id) for event in seen]
    assert order == sorted(set(order))


async def test_who_follows_the_log_gets_what_is_void_when_the_step_starts_again(
    start_worker: StartWorker, redis: Redis
) -> None:
    look = Notebook("look")
    box = Toolbox([look.tool])
    dying = PausedEngine([*speech("I look. "), asks("look")], [*speech("I se"), None])
    first = await start_worker(engine=dying, toolbox=box)
    second = await start_worker(engine=PlannedEngine(speech("I see it")), toolbox=box)
    sid = await create(first)
    await begin_and_die(first, redis, sid, dying.paused.is_set)
    after = f"{(await event_ids(redis, sid))[0].split('-')[0]}-0"
    events = await resume(second, sid)
    # The new client gets the finished steps, and then the step from its start.
    assert deltas(events) == events[-1].data["content"] == "I look. I see it"
    headers = {"Last-Event-ID": after}
    async with second.get(sid, "events", params={"until": "done"}, headers=headers) as response:
        log = await all_events(response)
    (rewind,) = [event for event in log if event.name == "rewind"]
    void_from = event_order(rewind.data["id"])
    at = log.index(rewind)
    kept = [event for event in log[:at] if event_order(event.id) <= void_from]
    assert deltas(log[:at]) == "I look. I se"
    assert deltas(kept) == "I look. "
    assert deltas([*kept, *log[at:]]) == "I look. I see it"
    # The step's tools are not void.
    assert [e.name for e in kept] == ["message.delta", "tool.started", "tool.completed"]


async def event_ids(redis: Redis, sid: str) -> list[str]:
    return [event_id for event_id, _ in await redis.xrange(f"hermes:{{{sid}}}:ev")]


async def test_what_was_said_before_a_second_death_is_not_said_again(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    engines = [
        PausedEngine([*speech("one "), None], can_continue=True),
        PausedEngine([*speech("two "), None], can_continue=True),
        PausedEngine(speech("three"), can_continue=True),
    ]
    workers = [await start_worker(engine=engine) for engine in engines]
    sid = await create(workers[0])
    for engine, worker in zip(engines[:2], workers, strict=False):
        await begin_and_die(worker, redis, sid, engine.paused.is_set)
    events = await resume(workers[2], sid)
    assert engines[1].requests[0].prefix == "one "
    assert engines[2].requests[0].prefix == "one two "
    assert deltas(events) == events[-1].data["content"] == "one two three"
    assert await told(store, sid) == [("user", "go"), ("assistant", "one two three")]


async def test_what_is_void_since_a_rewind_is_no_prefix_for_the_next_worker(
    start_worker: StartWorker, redis: Redis
) -> None:
    engines = [
        PausedEngine([*speech("one "), None]),
        PausedEngine([*speech("uno "), None]),
        PausedEngine(speech("dos"), can_continue=True),
    ]
    workers = [await start_worker(engine=engine) for engine in engines]
    sid = await create(workers[0])
    for engine, worker in zip(engines[:2], workers, strict=False):
        await begin_and_die(worker, redis, sid, engine.paused.is_set)
    events = await resume(workers[2], sid)
    assert engines[2].requests[0].prefix == "uno "
    assert deltas(events) == events[-1].data["content"] == "uno dos"


async def test_results_that_were_recorded_are_replayed_and_the_others_run_again(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    quick, slow = Notebook("quick"), Notebook("slow", Effect.IDEMPOTENT)
    slow.gate = asyncio.Event()
    box = Toolbox([quick.tool, slow.tool])
    calls = [asks("quick", "c1", n="a"), asks("slow", "c2", n="b")]
    first = await start_worker(engine=PlannedEngine([*speech("both"), *calls]), toolbox=box)
    second = await start_worker(engine=(engine := PlannedEngine(speech(" done"))), toolbox=box)
    sid = await create(first)

    async def quick_is_recorded() -> bool:
        return bool(slow.runs) and await redis.hexists(f"hermes:{{{sid}}}:tools", "1.0:result")

    await begin_and_die(first, redis, sid, quick_is_recorded)
    slow.gate = None
    events = await resume(second, sid)
    assert (quick.runs, slow.runs) == (["a"], ["b", "b"])
    # The external system can recognise the second attempt.
    assert slow.keys == [f"{sid}.1.1"] * 2
    assert deltas(events) == events[-1].data["content"] == "both done"
    # The model was not asked for the calls a second time.
    assert len(engine.requests) == 1
    assert await told(store, sid) == [
        ("user", "go"),
        ("assistant", "both"),
        ("tool", "quick 1"),
        ("tool", "slow 2"),
        ("assistant", " done"),
    ]
    assert await redis.exists(f"hermes:{{{sid}}}:tools") == 0


@pytest.mark.parametrize("policy", ["resume", "new turn"])
async def test_a_once_call_that_was_pending_is_reported_as_unknown_and_not_run_again(
    start_worker: StartWorker, redis: Redis, store: SessionStore, policy: str
) -> None:
    pay = Notebook("pay", Effect.ONCE)
    pay.gate = asyncio.Event()
    box = Toolbox([pay.tool])
    first = await start_worker(engine=PlannedEngine([*speech("I pay"), asks("pay")]), toolbox=box)
    second = await start_worker(engine=(engine := PlannedEngine(speech(". Hm"))), toolbox=box)
    sid = await create(first)
    wake_up = await begin_and_die(first, redis, sid, lambda: pay.runs)
    if policy == "resume":
        events = await resume(second, sid)
        (completed,) = [event for event in events if event.name == "tool.completed"]
        assert (completed.data["ok"], completed.data["result"]) == (False, MAYBE)
        text = f"unknown: {MAYBE}"
    else:
        assert (await post(second, sid, "and now?")).body["content"] == ". Hm"
        text = f"unknown: interrupted; {MAYBE}"
    assert len(pay.runs) == 1
    (seen,) = [m for m in engine.histories[0] if m["role"] == "tool"]
    assert seen["content"] == text
    history = await told(store, sid)
    assert ("tool", text) in history
    # It was slow, not dead. Its result comes too late to be recorded.
    wake_up()
    pay.gate.set()
    await first.worker.turns.wait_idle()
    assert await told(store, sid) == history


async def test_a_once_call_that_was_recorded_is_replayed(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    pay, slow = Notebook("pay", Effect.ONCE), Notebook("slow")
    slow.gate = asyncio.Event()
    box = Toolbox([pay.tool, slow.tool])
    calls = [asks("pay", "c1"), asks("slow", "c2")]
    first = await start_worker(engine=PlannedEngine(calls), toolbox=box)
    second = await start_worker(engine=PlannedEngine(speech("paid")), toolbox=box)
    sid = await create(first)

    async def is_paid() -> bool:
        return bool(slow.runs) and await redis.hexists(f"hermes:{{{sid}}}:tools", "1.0:result")

    await begin_and_die(first, redis, sid, is_paid)
    slow.gate = None
    events = await resume(second, sid)
    completed = [e.data for e in events if e.name == "tool.completed"]
    assert {(c["name"], c["ok"], c["result"]) for c in completed} == {
        ("pay", True, "pay 1"),
        ("slow", True, "slow 2"),
    }
    assert len(pay.runs) == 1


async def test_a_step_whose_results_are_kept_is_not_run_again(
    start_worker: StartWorker, redis: Redis
) -> None:
    look = Notebook("look")
    box = Toolbox([look.tool])
    dying = PausedEngine([*speech("I look. "), asks("look")], [None])
    first = await start_worker(engine=dying, toolbox=box)
    second = await start_worker(engine=(engine := PlannedEngine(speech("Seen."))), toolbox=box)
    sid = await create(first)
    await begin_and_die(first, redis, sid, dying.paused.is_set)
    events = await resume(second, sid)
    assert look.runs == [""]
    assert [m["role"] for m in engine.histories[0]] == ["user", "assistant", "tool"]
    assert deltas(events) == events[-1].data["content"] == "I look. Seen."
    assert [e.name for e in events] == ["message.delta", "message.delta", "done"]


async def test_the_step_limit_counts_the_steps_of_the_worker_that_died(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    look = Notebook("look")
    box = Toolbox([look.tool])
    dying = PausedEngine([*speech("a"), asks("look")], [None])
    first = await start_worker(engine=dying, toolbox=box, step_limit=2)
    engine = PlannedEngine([*speech("b"), asks("look")])
    second = await start_worker(engine=engine, toolbox=box, step_limit=2)
    sid = await create(first)
    await begin_and_die(first, redis, sid, dying.paused.is_set)
    events = await resume(second, sid)
    assert events[-1].data == {"session_id": sid, "step": 2, "content": "ab", "is_final": False}
    assert await status(store, sid) == "idle"


async def test_the_dead_workers_turn_writes_nothing_when_it_wakes_up(
    start_worker: StartWorker, redis: Redis, store: SessionStore
) -> None:
    """It was only paused, for longer than its lease; Redis was reachable all the time."""
    sleeper = PausedEngine([*speech("one "), None, *speech("never")])
    first = await start_worker(engine=sleeper)
    second = await start_worker(engine=PausedEngine(speech("two"), can_continue=True))
    sid = await create(first)
    running = spawn(post(first, sid, "go", Idempotency_Key="k"), name="turn")
    await sleeper.paused.wait()

    async def is_logged() -> bool:
        return len(await event_ids(redis, sid)) == 1

    await until(is_logged)
    await redis.delete(f"hermes:{{{sid}}}:lease")
    assert deltas(await resume(second, sid)) == "one two"
    before = await event_ids(redis, sid)
    sleeper.gate.set()
    reply = await running
    assert (reply.status, reply.error) == (503, "lease_lost")
    assert await event_ids(redis, sid) == before
    assert await told(store, sid) == [("user", "go"), ("assistant", "one two")]


async def test_a_finished_turn_whose_answer_was_lost_is_reported_again(
    start_worker: StartWorker,
) -> None:
    first = await start_worker(engine=PlannedEngine(speech("one ", "two")))
    second = await start_worker(engine=PlannedEngine())
    sid = await create(first)
    original = await resume(first, sid)
    again = await resume(second, sid)
    assert deltas(again) == "one two"
    assert again[-1] == original[-1]
