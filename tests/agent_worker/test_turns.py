"""Turns on a real store: the lease is taken, kept, and always freed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import EngineFailed, LeaseLost, SessionNotFound, StoreUnavailable, TurnBusy
from agent_worker.models import ScriptedEngine, StepRequest, TextDelta, ToolCall
from agent_worker.runtime import TurnRequest
from agent_worker.runtime import turn as turn_module
from agent_worker.sessions import SessionStore, connect, session_keys
from agent_worker.tasks import spawn
from agent_worker.tools import Effect, Toolbox
from tests.support.agent.engines import FunctionTool, GatedEngine, PlannedEngine
from tests.support.agent.harness import Harness
from tests.support.agent.sessions import ME, open_store
from tests.support.sse import event_order
from tests.support.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from agent_worker.redis_server import RedisServer
    from agent_worker.sessions import Event, RedisBackend

MakeHarness = Callable[..., Harness]


@pytest.fixture
def harness(client: RedisBackend, store: SessionStore) -> MakeHarness:
    """`harness(engine)` or `harness(engine, toolbox)` is one worker."""
    return functools.partial(Harness, client, store)


async def lease_of(redis: Redis, sid: str) -> str | None:
    return await redis.get(session_keys(sid)[1])


async def test_a_turn_with_a_tool(redis: Redis, harness: MakeHarness, sid: str) -> None:
    worker = harness(ScriptedEngine())
    answer = await worker.turn(sid, "calculate 2 + 3")
    assert answer.as_json() == {
        "session_id": sid,
        "step": 2,
        "content": "Let me use calculator. 2 + 3 = 5.",
        "is_final": True,
    }
    assert worker.text() == answer.content
    names = [event.name for event in worker.events]
    assert names.index("tool.started") < names.index("tool.completed") < len(names) - 1
    assert worker.last() == ("done", answer.as_json())
    order = [event_order(event.id) for event in worker.events]
    assert order == sorted(set(order))
    assert await lease_of(redis, sid) is None
    assert (worker.ended("completed"), worker.active()) == (1, 0)


async def test_tools_that_run_together_send_their_events_one_by_one(
    harness: MakeHarness, sid: str
) -> None:
    worker = harness(ScriptedEngine())
    sending: list[Event] = []

    async def slow(event: Event) -> None:
        assert sending == []
        sending.append(event)
        await asyncio.sleep(0)
        worker.events.append(sending.pop())

    question = "what time is it? calculate 2 + 3"
    async with worker.turns.open(TurnRequest(sid, ME, question)) as turn:
        await turn.run(slow)
    assert sum(event.name == "tool.started" for event in worker.events) == 2
    order = [event_order(event.id) for event in worker.events]
    assert order == sorted(order)


async def test_event_ids_grow_from_turn_to_turn(harness: MakeHarness, sid: str) -> None:
    for content in ("one", "two"):
        worker = harness(ScriptedEngine())
        await worker.turn(sid, content)
        if content == "one":
            last = event_order(worker.events[-1].id)
    assert event_order(worker.events[0].id) > last


async def test_notes_live_in_the_session(harness: MakeHarness, sid: str) -> None:
    await harness(ScriptedEngine()).turn(sid, "note colour: blue")
    answer = await harness(ScriptedEngine()).turn(sid, "recall colour")
    assert answer.content.endswith("colour is blue.")


async def test_a_cancelled_turn_frees_its_lease_at_once(
    redis: Redis, harness: MakeHarness, sid: str
) -> None:
    worker = harness(engine := GatedEngine())
    task = spawn(worker.turn(sid, "first"), name="turn")
    await engine.started.wait()
    assert worker.active() == 1
    with pytest.raises(TurnBusy):
        await worker.turn(sid, "too early")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.closed.is_set()
    assert (worker.active(), worker.ended("interrupted"), len(worker.turns)) == (0, 1, 0)
    answer = await harness(ScriptedEngine()).turn(sid, "how many messages?")
    assert answer.content == "This is turn 2, and I have seen 2 messages."


async def test_a_turn_cancelled_while_it_begins_leaves_no_lease(
    store: SessionStore,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    harness: MakeHarness,
    sid: str,
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    begin = store.begin

    async def slow_begin(*args: Any, **kwargs: Any) -> Any:
        granted = await begin(*args, **kwargs)
        began.set()
        await go_on.wait()
        return granted

    monkeypatch.setattr(store, "begin", slow_begin)
    task = spawn(harness(GatedEngine()).turn(sid, "first"), name="turn")
    await began.wait()
    assert await lease_of(redis, sid) is not None
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lease_of(redis, sid) is None


async def test_a_turn_that_lost_its_lease_is_stopped(
    store: SessionStore, redis: Redis, harness: MakeHarness, sid: str
) -> None:
    store.lease_s = 0.3
    worker = harness(engine := GatedEngine())
    task = spawn(worker.turn(sid, "first"), name="turn")
    await engine.started.wait()
    await redis.delete(session_keys(sid)[1])
    with pytest.raises(LeaseLost):
        await task
    assert engine.closed.is_set()
    name, data = worker.last()
    assert (name, data["code"]) == ("error", "lease_lost")
    assert [m["role"] for m in (await store.read(sid, ME)).messages] == ["user"]
    assert worker.ended("lease_lost") == 1


async def test_a_long_turn_keeps_its_lease_by_renewing(
    store: SessionStore, redis: Redis, harness: MakeHarness, sid: str
) -> None:
    store.lease_s = 1.2
    renewed: list[float] = []
    renew = store.renew

    async def counted(lease: Any) -> bool:
        renewed.append(lease.fence)
        return await renew(lease)

    store.renew = counted  # type: ignore[method-assign]
    worker = harness(engine := GatedEngine())
    task = spawn(worker.turn(sid, "first"), name="turn")
    # Four thirds of a lease: it would have expired.
    await until(lambda: len(renewed) >= 4)
    engine.gate.set()
    assert (await task).content == "one two"


async def test_a_renewal_on_its_way_does_not_fail_a_turn_that_ends(
    store: SessionStore, harness: MakeHarness, sid: str
) -> None:
    store.lease_s = 1.0
    renewing, committed = asyncio.Event(), asyncio.Event()
    renew, commit = store.renew, store.commit

    async def slow_renew(lease: Any) -> bool:
        renewing.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(committed.wait(), 0.1)
        return await renew(lease)

    async def noted_commit(*args: Any, **kwargs: Any) -> Any:
        done = await commit(*args, **kwargs)
        committed.set()
        await asyncio.sleep(0.05)
        return done

    store.renew, store.commit = slow_renew, noted_commit  # type: ignore[method-assign]
    worker = harness(engine := GatedEngine())
    task = spawn(worker.turn(sid, "first"), name="turn")
    await renewing.wait()
    engine.gate.set()
    assert (await task).content == "one two"


async def test_a_session_deleted_in_a_turn_stays_deleted(
    store: SessionStore, redis: Redis, harness: MakeHarness, sid: str
) -> None:
    worker = harness(engine := GatedEngine())
    task = spawn(worker.turn(sid, "first"), name="turn")
    await engine.started.wait()
    await store.delete(sid, ME)
    engine.gate.set()
    with pytest.raises(SessionNotFound):
        await task
    assert await redis.exists(*session_keys(sid)[1:]) == 0
    with pytest.raises(SessionNotFound):
        await store.read(sid, ME)


async def test_a_failed_engine_ends_the_turn_and_keeps_the_question(
    store: SessionStore, harness: MakeHarness, sid: str
) -> None:
    worker = harness(PlannedEngine([TextDelta("half"), RuntimeError("boom")]))
    with pytest.raises(EngineFailed):
        await worker.turn(sid, "first")
    assert [event.name for event in worker.events] == ["message.delta", "error"]
    view = await store.read(sid, ME)
    assert (view.status, len(view.messages)) == ("interrupted", 1)
    assert (await harness(ScriptedEngine()).turn(sid, "hello")).step == 1


async def test_a_client_that_is_gone_ends_the_turn(
    store: SessionStore, redis: Redis, harness: MakeHarness, sid: str
) -> None:
    worker = harness(engine := GatedEngine())

    async def gone(event: Event) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        async with worker.turns.open(TurnRequest(sid, ME, "hello")) as turn:
            await turn.run(gone)
    assert engine.closed.is_set()
    assert await lease_of(redis, sid) is None
    assert len((await store.read(sid, ME)).messages) == 1


async def test_a_repeated_key_is_answered_without_the_engine(
    store: SessionStore, harness: MakeHarness, sid: str
) -> None:
    first = await harness(ScriptedEngine()).turn(sid, "hello", "k")
    worker = harness(PlannedEngine())
    assert await worker.turn(sid, "hello", "k") == first
    assert [event.name for event in worker.events] == ["message.delta", "done"]
    assert worker.text() == first.content
    assert len((await store.read(sid, ME)).messages) == 2


async def test_a_resumed_turn_tells_its_kept_steps_first(
    store: SessionStore, harness: MakeHarness, sid: str
) -> None:

    class DiesInItsSecondStep(ScriptedEngine):
        async def step(self, request: StepRequest) -> Any:
            if request.messages[-1]["role"] == "tool":
                raise RuntimeError("dies")
            async for item in super().step(request):
                yield item

    with pytest.raises(EngineFailed):
        await harness(DiesInItsSecondStep()).turn(sid, "calculate 2 + 3", "k")
    worker = harness(ScriptedEngine())
    answer = await worker.turn(sid, "calculate 2 + 3", "k")
    assert answer.content == worker.text() == "Let me use calculator. 2 + 3 = 5."
    assert "tool.started" not in [event.name for event in worker.events]
    roles = [message["role"] for message in (await store.read(sid, ME)).messages]
    assert roles == ["user", "assistant", "tool", "assistant"]


async def test_a_short_loss_of_redis_does_not_end_a_turn(
    store: SessionStore, harness: MakeHarness, sid: str
) -> None:
    failures = [StoreUnavailable(), StoreUnavailable()]
    commit = store.commit

    async def unsteady(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return await commit(*args, **kwargs)

    store.commit = unsteady  # type: ignore[method-assign]
    assert (await harness(ScriptedEngine()).turn(sid, "hello")).is_final
    assert failures == []


async def test_a_turn_whose_redis_stays_away_gives_up_with_its_lease(
    own_redis_server: RedisServer,
) -> None:
    client = connect(own_redis_server.url)
    store = open_store(client, lease_s=0.4)
    sid = await store.create(ME, {})
    worker = Harness(client, store, engine := GatedEngine())
    task = spawn(worker.turn(sid, "first"), name="turn")
    await engine.started.wait()
    own_redis_server.stop()
    with pytest.raises(StoreUnavailable):
        await task
    assert worker.last()[1]["code"] == "store_unavailable"
    assert len(worker.turns) == 0
    await client.aclose()


async def test_cancel_all_waits_until_every_lease_is_free(
    store: SessionStore, redis: Redis, harness: MakeHarness
) -> None:
    sids = [await store.create(ME, {}) for _ in range(3)]
    worker = harness(engine := GatedEngine())
    tasks = [spawn(worker.turn(sid, "x"), name="turn") for sid in sids]
    await until(lambda: engine.steps == 3)
    assert repr(worker.turns) == "Turns(3 open)"
    await worker.turns.cancel_all()
    assert [await lease_of(redis, sid) for sid in sids] == [None] * 3
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_cancel_all_waits_for_a_once_call_whose_client_had_left_before(
    store: SessionStore, redis: Redis, harness: MakeHarness
) -> None:
    begun, gate, paid = asyncio.Event(), asyncio.Event(), []

    async def pay(arguments: Any, context: Any) -> str:
        begun.set()
        await gate.wait()
        paid.append(True)
        return "paid"

    sid = await store.create(ME, {})
    toolbox = Toolbox([FunctionTool("pay", pay, Effect.ONCE)])
    worker = harness(PlannedEngine([ToolCall("c1", "pay", {})]), toolbox)
    client = spawn(worker.turn(sid, "x"), name="turn")
    await begun.wait()
    client.cancel()
    # The cancelled turn is waiting for it now.
    for _ in range(9):
        await asyncio.sleep(0)
    stopping = spawn(worker.turns.cancel_all(), name="stopping")
    await asyncio.wait({stopping}, timeout=0.2)
    assert not stopping.done()
    assert await lease_of(redis, sid) is not None
    gate.set()
    await stopping
    assert paid == [True]
    assert await lease_of(redis, sid) is None
    await asyncio.wait({client})
    assert client.cancelled()


async def test_a_client_that_does_not_take_the_error_is_no_client_any_more(
    store: SessionStore, redis: Redis, harness: MakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint then resets the connection instead of ending it normally."""
    monkeypatch.setattr(turn_module, "_LAST_EVENT_S", 0.05)
    sid = await store.create(ME, {})
    worker = harness(PlannedEngine([EngineFailed()]))

    async def stuck(event: Event) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ConnectionError):
        async with worker.turns.open(TurnRequest(sid, ME, "hello")) as turn:
            await turn.run(stuck)
    assert worker.ended("engine_failed") == 1
    assert await lease_of(redis, sid) is None
